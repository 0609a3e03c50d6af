"""Uploads: huggingface_hub's own client against a server on this machine; and what is refused before any work."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ssod.inference.hub import check_hub, upload
from ssod.utils.errors import Exit, SsodError

pytest.importorskip("huggingface_hub", reason="pip install 'ssod[hub]'")
ROOT = Path(__file__).resolve().parents[2]
UPLOAD = """
import sys
from pathlib import Path
from ssod.inference.hub import upload
from ssod.utils.errors import SsodError
try:
    print(upload("ann/cells", *map(Path, sys.argv[1:4]), private=True))
except SsodError as error:
    sys.exit(error.line())
"""


class Hub(ThreadingHTTPServer):
    """Answers as a hub does where a repository is made and a commit arrives.

    Attributes:
        asked: (path, who, body) of each request.
        files: name -> content, of the commits.
        refuses: a status that every request gets; None = all is well.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.asked: list[tuple[str, str | None, bytes]] = []
        self.files: dict[str, bytes] = {}
        self.refuses: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, body: bytes) -> dict:
        if path == "/api/repos/create":
            return {"url": f"{self.url}/ann/cells", "name": "ann/cells", "id": "1"}
        if path == "/api/validate-yaml":
            return {"warnings": [], "errors": []}
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        assert path == "/api/models/ann/cells/commit/main", path
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return {"commitUrl": f"{self.url}/ann/cells/commit/abc", "commitOid": "abc", "pullRequestUrl": None}


class _Answers(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.split("?")[0]
        self.server.asked.append((path, self.headers.get("Authorization"), body))
        status = self.server.refuses or 200
        text = json.dumps({"error": "no"} if self.server.refuses else self.server.answer(path, body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def send(url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Upload three files in a process of its own: the client reads the hub's address when it is imported."""
    files = {"best.safetensors": b"\0weights", "best.onnx": b"\1graph", "best.md": b"# best.onnx\n"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    home = {"HF_ENDPOINT": url, "HF_TOKEN": "hf_secret", "HF_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", UPLOAD, *(str(folder / name) for name in files)]
    return subprocess.run(command, env={**os.environ, **home}, capture_output=True, text=True, check=False)


def test_weights_graph_and_card_arrive(hub: Hub, tmp_path: Path) -> None:
    done = send(hub.url, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{hub.url}/ann/cells/commit/abc\n"
    page = hub.files.pop("README.md").decode()
    assert hub.files == {"best.safetensors": b"\0weights", "best.onnx": b"\1graph"}
    assert page.startswith("---\npipeline_tag: object-detection\n")
    assert page.endswith("---\n\n# best.onnx\n")
    path, who, body = hub.asked[0]
    assert path == "/api/repos/create"
    assert who == "Bearer hf_secret"
    made = json.loads(body)
    assert (made["name"], made["organization"]) == ("cells", "ann")
    assert made.get("private") is True or made.get("visibility") == "private"
    assert "hf_secret" not in done.stdout + done.stderr


def test_a_hub_that_refuses_or_is_not_there_ends_in_one_line(hub: Hub, tmp_path: Path) -> None:
    hub.refuses = 403
    done = send(hub.url, tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("hub: ann/cells: ")
    assert "rights of the token" in done.stderr
    assert not hub.files
    hub.shutdown()
    hub.server_close()
    done = send(hub.url, tmp_path)
    assert "check the network" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_what_sends_large_files_fails_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("Data processing error: CAS service error\nretries exhausted")  # as hf_xet raises it

    monkeypatch.setattr(hub.HfApi, "create_repo", lambda *_, **__: None)
    monkeypatch.setattr(hub.HfApi, "create_commit", fails)
    files = [tmp_path / name for name in ("best.safetensors", "best.onnx", "best.md")]
    for file in files:
        file.write_bytes(b"x")
    with pytest.raises(SsodError, match="hub: ann/cells: Data processing error: CAS service error; check") as refused:
        upload("ann/cells", *files)
    assert refused.value.code == Exit.IO


def test_what_cannot_be_uploaded_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(
        SsodError, match="there is no token; make a token that may write, then `hf auth login`"
    ) as caught:
        check_hub("ann/cells")
    assert caught.value.code == Exit.USAGE
    for name in ("cells", "ann/cells/x", "ann/..", "a b/c", ""):
        with pytest.raises(SsodError, match="is no repository; write user/name"):
            check_hub(name)
    monkeypatch.setattr("ssod.inference.hub.importlib.util.find_spec", lambda name: None)
    with pytest.raises(SsodError, match=r"pip install 'ssod\[hub\]'"):
        check_hub("ann/cells")
