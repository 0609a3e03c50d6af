"""An exported detector on a hub: weights, graph and model card, in one commit of a repository.

Where the hub is, and who asks, follows huggingface_hub's own settings: ``HF_ENDPOINT``, ``HF_TOKEN``, and the token
that its login has stored. Nothing of a token is printed or kept here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ssod.utils.errors import Exit, SsodError

# What the hub reads of a page: what it is for. The license is the user's to add.
_HEADER = "---\npipeline_tag: object-detection\ntags:\n- object-detection\n- ssod\n---\n\n"


def check_hub(name: str) -> None:
    """Refuse an upload that cannot be, before any work is done for it.

    Raises:
        SsodError: code 2, for a name that is none, a package that is not installed, or no token.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        problem = "needs huggingface_hub, which is not installed"
        raise SsodError("command line", "--hub", problem, "pip install 'ssod[hub]'")
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
        fits = name.count("/") == 1
    except HFValidationError:
        fits = False
    if not fits:
        raise SsodError("command line", "--hub", f"'{name}' is no repository", "write user/name, as in --hub ann/cells")
    if not get_token():
        fix = "make a token that may write, then `hf auth login`, or set HF_TOKEN"
        raise SsodError("command line", "--hub", "nobody is logged in to the hub: there is no token", fix)


def upload(name: str, weights: Path, graph: Path, card: Path, *, private: bool = False) -> str:
    """Upload an export; the repository is made where there is none.

    The card becomes the page of the repository, ``README.md``. Files of the same names are replaced, others stay.

    Args:
        name: ``user/name``.
        weights: model file.
        graph: of it.
        card: its page.
        private: of a repository that is made now; one that is there stays as it is.

    Returns:
        The address of the commit.

    Raises:
        SsodError: code 6, the hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    page = (_HEADER + card.read_text("utf-8")).encode()
    adds = [CommitOperationAdd(path.name, str(path)) for path in (weights, graph)]
    adds.append(CommitOperationAdd("README.md", page))
    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        done = api.create_commit(name, operations=adds, commit_message=f"Upload {graph.name}")
    except HfHubHTTPError as error:
        raise _refused(name, error, "check the rights of the token: hf auth whoami") from None
    # No network. The HTTP library's own errors are no OSErrors, nor are those of hf_xet, which sends large files.
    except (OSError, RuntimeError, *HfHubHTTPError.__bases__) as error:
        raise _refused(name, error, "check the network, and HF_ENDPOINT") from None
    return str(done.commit_url)


def _refused(name: str, error: Exception, fix: str) -> SsodError:
    """Return the first line of what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return SsodError("hub", name, lines[0] if lines else type(error).__name__, fix, code=Exit.IO)
