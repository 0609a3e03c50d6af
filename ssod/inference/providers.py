"""What computes a graph in onnxruntime: names that people type, and what is refused where one is not there."""

from __future__ import annotations

from ssod.utils.errors import SsodError

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
PACKAGES = {
    "cpu": "onnxruntime",
    "cuda": "onnxruntime-gpu",
    "openvino": "onnxruntime-openvino",
    "tensorrt": "onnxruntime-gpu",
}


def provider(name: str) -> str:
    """Return onnxruntime's own name of a provider.

    Args:
        name: ``cpu``, ``cuda``, ``openvino`` or ``tensorrt``.

    Raises:
        SsodError: code 2, nobody knows it, or the onnxruntime that is installed was built without it.
    """
    import onnxruntime

    if name not in PROVIDERS:
        raise SsodError("command line", "--provider", f"'{name}' is unknown", f"use {', '.join(PROVIDERS)}")
    built = onnxruntime.get_available_providers()
    if PROVIDERS[name] not in built:
        have = ", ".join(known for known, own in PROVIDERS.items() if own in built)
        raise SsodError("command line", "--provider", f"'{name}' is not here; available: {have}", _fix(name))
    return PROVIDERS[name]


def check_used(wanted: str, used: list[str]) -> None:
    """Refuse a session that quietly computes elsewhere.

    Args:
        wanted: onnxruntime's name of a provider.
        used: what the session says that it has, the first first.

    Raises:
        SsodError: code 2, onnxruntime could not load it: a driver or a library of the system is missing.
    """
    if wanted not in used:
        name = next((known for known, own in PROVIDERS.items() if own == wanted), wanted)
        problem = f"'{name}' is built into onnxruntime but does not load here; it would compute by {', '.join(used)}"
        raise SsodError("onnxruntime", "provider", problem, "install its driver and libraries, or use cpu")


def _fix(name: str) -> str:
    return f"pip install {PACKAGES[name]} in the place of the onnxruntime that is here"
