"""Engines of onnxruntime: the one that is asked for computes, or one line says what there is."""

from pathlib import Path

import onnxruntime
import pytest

from ssod.inference.export import export
from ssod.inference.graph import runner
from ssod.inference.providers import PROVIDERS, check_used, provider
from ssod.utils.errors import Exit, SsodError
from tests.trained import model_file


def test_the_cpu_is_always_there() -> None:
    assert provider("cpu") == "CPUExecutionProvider"


def test_an_engine_that_is_not_built_in_is_refused_with_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for name in PROVIDERS:
        if name == "cpu":
            continue
        with pytest.raises(
            SsodError, match=f"'{name}' is not here; available: cpu; pip install onnxruntime-"
        ) as caught:
            provider(name)
        assert caught.value.code == Exit.USAGE
    with pytest.raises(SsodError, match="'coreml' is unknown; use cpu, cuda, openvino, tensorrt"):
        provider("coreml")


def test_an_engine_that_is_built_in_and_available_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(PROVIDERS.values()))
    assert {name: provider(name) for name in PROVIDERS} == PROVIDERS


def test_one_that_does_not_load_is_no_reason_to_compute_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        def __init__(self, content: bytes, options: object, providers: list[str]) -> None:
            assert providers == ["OpenVINOExecutionProvider"]

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(SsodError, match="'openvino' is built into onnxruntime but does not load here") as caught:
        runner(b"graph", "onnx", "OpenVINOExecutionProvider")
    assert caught.value.code == Exit.USAGE
    check_used("CPUExecutionProvider", ["CPUExecutionProvider"])


def test_providers_are_of_onnx(tmp_path: Path) -> None:
    with pytest.raises(SsodError, match="--provider: is of ONNX, not of pt2"):
        export(model_file(tmp_path / "best.safetensors"), "pt2", provider="cpu")


def test_an_engine_that_would_run_nothing_is_refused() -> None:
    with pytest.raises(SsodError, match="export: provider: no graph is run"):
        export("absent.safetensors", check=False, provider="cpu")
