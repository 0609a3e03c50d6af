"""Is this machine able to train? Versions, the torch/torchvision pair, devices, write access."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rich.table import Table

from ssod.utils.printing import console

_NEEDED = (
    "torch",
    "torchvision",
    "numpy",
    "scikit-learn",
    "scipy",
    "pillow",
    "pyyaml",
    "pydantic",
    "typer",
    "rich",
    "safetensors",
    "jinja2",
    "matplotlib",
)
BUSY: Literal["busy"] = "busy"
_OPTIONAL = ("onnx", "onnxscript", "onnxruntime", "tensorboard", "detectron2")


@dataclass(frozen=True)
class Examined:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        ok: True = it works, False = it is needed and does not, None = it is absent, and nothing needs it; ``busy`` = it
            works, and others are using it.
        result: a version, a device, or what broke.
        fix: what to do where it is not ``ok``.
    """

    name: str
    ok: bool | Literal["busy"] | None
    result: str
    fix: str


@dataclass(frozen=True)
class Health:
    """What was found out about this machine.

    Attributes:
        checks: in the order of the table.
    """

    checks: tuple[Examined, ...]

    @property
    def healthy(self) -> bool:
        """Whether all that is needed works."""
        return all(check.ok is not False for check in self.checks)


def doctor() -> Health:
    """Print one line a check, and return the same as values."""
    found = Health(tuple(Examined(name, *_run(check)) for name, check in _CHECKS))
    _show(found)
    return found


def _show(found: Health) -> None:
    table = Table(title="ssod doctor", title_justify="left", box=None, pad_edge=False)
    for column in ("check", "result", "what to do"):
        table.add_column(column)
    for check in found.checks:
        mark = {True: "ok", False: "FAILED", None: "absent", BUSY: BUSY}[check.ok]
        advice = "" if check.ok is True else check.fix
        table.add_row(check.name, f"{mark}: {check.result}" if check.result else mark, advice)
    console().print(table)


Verdict = tuple[bool | Literal["busy"] | None, str, str]


def _run(check: Callable[[], Verdict]) -> Verdict:
    try:
        return check()
    except Exception as error:  # a doctor reports whatever broke, and goes on
        return False, f"{type(error).__name__}: {error}".splitlines()[0], "reinstall: pip install --upgrade ssod"


def _python() -> Verdict:
    version = platform.python_version()
    return tuple(map(int, version.split(".")[:2])) >= (3, 11), version, "use Python 3.11 or newer"


def _package(name: str, needed: bool) -> Verdict:
    try:
        return True, importlib.metadata.version(name), ""
    except importlib.metadata.PackageNotFoundError:
        return (False if needed else None), "", f"pip install {name}" if name != "detectron2" else "see its own site"


def _nms() -> Verdict:
    import torch
    from torchvision.ops import nms

    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    return kept == [0, 2], f"nms keeps {kept}", "torch and torchvision do not pair; install both without pins"


def _pixels() -> Verdict:
    from ssod.transforms import raster

    name = raster.libraries()["resampler"]
    fix = 'pip install "ssod[fast]": views in less time; any opencv-python will do'
    return (True if name.startswith("opencv") else None), name, fix


def _devices() -> Verdict:
    import torch

    if not torch.cuda.is_available():
        return True, f"CPU, {os.cpu_count()} cores (no CUDA device)", ""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    worked = float(torch.ones(8, device="cuda").sum()) == 8
    return worked, ", ".join(names), "the driver does not run kernels; check nvidia-smi"


def _load() -> Verdict:
    import torch

    from ssod.commands.load import measured

    here, threads = measured(), torch.get_num_threads()
    doubt = here.doubt(threads)
    return (BUSY if doubt else True), f"{here.words()}, {threads} threads of torch", doubt.rpartition("; ")[2]


def _writes() -> Verdict:
    with tempfile.NamedTemporaryFile(dir=".") as file:
        file.write(b"x")
    return True, os.getcwd(), ""


def _datasets() -> Verdict:
    root = os.environ.get("SSOD_DATASETS", "datasets")
    there = os.path.isdir(root)
    return (True if there else None), root, "set SSOD_DATASETS, or make the folder; `ssod demo` needs none"


_CHECKS: list[tuple[str, Callable[[], Verdict]]] = [
    ("python", _python),
    *[(name, lambda name=name: _package(name, needed=True)) for name in _NEEDED],
    ("torch + torchvision", _nms),
    ("views made by", _pixels),
    ("devices", _devices),
    ("load", _load),
    ("write access", _writes),
    ("data sets", _datasets),
    *[(name, lambda name=name: _package(name, needed=False)) for name in _OPTIONAL],
]
