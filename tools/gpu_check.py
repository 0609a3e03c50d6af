"""What one GPU does with ssod: a table of what was measured in one go, and the same as JSON.

    tools/gpu_check.sh [-o runs/gpu_check]        from a bare clone; makes an environment where there is none
    python -m tools.gpu_check --tiny --device cpu    the same path in a minute without a GPU; its figures say nothing

Parts, each in turn; one that fails says so, and the others follow:

- **machine**: the card, its driver, versions, cores;
- **tests**: `tests/test_devices.py`, every method on every detector on the card;
- **steps**: `tools/bench_step.py` for each detector, method and precision: seconds of a step and of its phases, images
  a second, memory, the ratio to the bare step, and how many operations a second that is, in TFLOP/s and as a share of
  what the card can do at best (MFU). Operations are those of convolutions and matrix products, as torch counts them;
- **waits**: how often the host waits for the device within a step, as torch's sync debug mode reports it, and where;
- **loader**: how long a step waits for its batch, with all cores reading JPEG files;
- **thresholds**: `tools/bench_gmm.py`'s mixtures of 80 classes;
- **export**: the ONNX graphs of the detectors on CUDA's provider against torch, where onnxruntime has it.

A part that would begin after `--minutes` is left out, and said to be.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssod.utils import atomic
from tools import gpu_parts
from tools.options import count

Row = tuple[str, str]
PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "machine": gpu_parts.machine,
    "tests": gpu_parts.tests,
    "waits": gpu_parts.waits,
    "loader": gpu_parts.loader,
    "thresholds": gpu_parts.gmm,
    "export": gpu_parts.export,
    "steps": gpu_parts.steps,
}


def check(args: argparse.Namespace) -> dict[str, Any]:
    """Measure part by part; return what each found, and the first line of what went wrong in it as ``error``."""
    begin, found = time.perf_counter(), {}
    args.until = begin + 60 * args.minutes
    for name, part in PARTS.items():
        if args.only and name not in args.only:
            continue
        if time.perf_counter() > args.until:
            found[name] = {"left_out": f"after {args.minutes:g} minutes"}
            continue
        start = time.perf_counter()
        try:
            found[name] = part(args)
        except Exception as error:  # the others are worth having all the same
            traceback.print_exc()
            found[name] = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        found[name]["seconds"] = round(time.perf_counter() - start, 1)
        print(f"{name}: {found[name]['seconds']} s {found[name].get('error', '')}", flush=True)
    return found


def table(found: dict[str, Any]) -> str:
    """Return the Markdown page of what ``check`` found."""
    machine = found.get("machine", {})
    lines = [f"# {machine.get('card', 'unknown card')}", ""]
    lines += [f"- {key}: {value}" for key, value in machine.items() if key not in ("card", "seconds")]
    for name, values in found.items():
        if name in ("machine", "steps"):
            continue
        shown = ", ".join(f"{key} {value}" for key, value in values.items() if not isinstance(value, (dict, list)))
        lines += ["", f"## {name}", "", shown]
        for place in values.get("places", []):
            lines.append(f"- {place}")
    steps = found.get("steps", {})
    if steps:
        lines += ["", "## steps", "", *steps_table(steps)]
    return "\n".join(lines) + "\n"


def steps_table(steps: dict[str, Any]) -> list[str]:
    """Return a row for each detector, method and precision."""
    columns = ["detector", "method", "precision", "s a step", "ratio to bare", "images/s", "GB", "TFLOP/s", "MFU"]
    lines = [f"| {' | '.join(columns)} | phases, s |", "|" + "---|" * (len(columns) + 1)]
    for row in steps.get("rows", []):
        if "error" in row:
            cells = [row["detector"], row["method"], row["precision"], row["error"], *[""] * 6]
        else:
            numbers = [f"{row['whole']:.4f}", f"{row['ratio']:.3f}", f"{row['images_per_s']:.1f}", f"{row['gb']:.1f}"]
            mfu = "-" if row["mfu"] is None else f"{row['mfu']:.1%}"
            phases = ", ".join(f"{k} {v:.3f}" for k, v in sorted(row["phases"].items(), key=lambda kv: -kv[1]) if v > 0)
            cells = [row["detector"], row["method"], row["precision"], *numbers, f"{row['tflops']:.1f}", mfu, phases]
        lines.append(f"| {' | '.join(cells)} |")
    if "left_out" in steps or "error" in steps:
        lines.append(f"\n{steps.get('left_out') or steps['error']}")
    return lines


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", dest="out", type=Path, default=Path("runs/gpu_check"), help="folder of the results")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--minutes", type=float, default=8.0, help="no part, and no row of steps, begins later")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=[], help="these parts alone")
    parser.add_argument("--batch", type=count, default=2, help="labelled images of a step, and unlabelled ones")
    parser.add_argument("--rounds", type=count, default=5, help="steps that a median is of")
    parser.add_argument("--tiny", action="store_true", help="small images and networks, one row of each kind")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure, write ``gpu_check.json`` and ``gpu_check.md``, print the page; 1 where a part failed."""
    args = arguments(argv)
    found = check(args)
    args.out.mkdir(parents=True, exist_ok=True)
    atomic.write_text(args.out / "gpu_check.json", json.dumps(found, indent=1) + "\n")
    page = table(found)
    atomic.write_text(args.out / "gpu_check.md", page)
    print(page)
    rows = found.get("steps", {}).get("rows", [])
    return int(any("error" in part for part in [*found.values(), *rows]))


if __name__ == "__main__":
    sys.exit(main())
