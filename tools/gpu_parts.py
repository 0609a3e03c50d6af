"""The parts of ``tools/gpu_check.py``: each measures one thing and returns what it found as plain values."""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ssod.commands.dry_run import rehearsal
from ssod.data.loading.workers import usable_cpus
from ssod.data.synthetic import write_shapes
from ssod.engine.batch import send
from ssod.engine.stepper import Stepper
from ssod.inference.export import convert, runner
from ssod.utils.yaml_io import dump_yaml
from tools import bench_gmm, bench_step, export_parity
from tools.synthetic import Remember, calibrate

DETECTORS = ("retinanet", "fcos", "faster_rcnn")
METHODS = ("supervised", "mean_teacher", "soft_teacher", "consistent_teacher")
PRECISIONS = ("bf16", "fp32")
# TFLOP/s at best of dense products in bfloat16, by the makers' data sheets; a part of the card's name.
PEAKS = {"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10": 125, "4090": 165}
CUDA = "CUDAExecutionProvider"
REPOSITORY = Path(__file__).parents[1]


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """Name the card and what runs on it."""
    found = {"card": "CPU", "torch": torch.__version__, "python": platform.python_version()}
    if args.device == "cuda":
        ask = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        told = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
        card, driver, memory = told.splitlines()[0].split(", ")
        found |= {"card": card, "driver": driver, "memory": memory, "cuda": torch.version.cuda}
        found["cudnn"] = torch.backends.cudnn.version()
    import torchvision

    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=REPOSITORY).stdout.strip()
    return found | {"torchvision": torchvision.__version__, "cores": usable_cpus(), "commit": commit or "unknown"}


def tests(args: argparse.Namespace) -> dict[str, Any]:
    """Run the tests that have a device."""
    few = ["-k", "mean_teacher and fcos"] if args.tiny else []
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_devices.py", *few]
    env = os.environ | {"SSOD_TEST_DEVICE": args.device}
    told = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=env)
    last = told.stdout.strip().splitlines()[-1] if told.stdout.strip() else told.stderr.strip()[-200:]
    if told.returncode:
        print(told.stdout[-4000:], told.stderr[-2000:])
        raise RuntimeError(last)
    return {"result": last}


def steps(args: argparse.Namespace) -> dict[str, Any]:
    """Time a step of each detector, method and precision."""
    rows = []
    kinds = list(itertools.product(PRECISIONS, DETECTORS, METHODS))
    for precision, detector, method in kinds[:1] if args.tiny else kinds:
        row: dict[str, Any] = {"detector": detector, "method": method, "precision": precision}
        if time.perf_counter() > args.until:
            return {"rows": rows, "left_out": f"{len(kinds) - len(rows)} rows after {args.minutes:g} minutes"}
        try:
            row |= timed(args, detector, method, precision)
        except Exception as error:  # e.g. a row that does not fit in memory
            row["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
        rows.append(row)
        if args.device == "cuda":
            torch.cuda.empty_cache()
    return {"rows": rows}


def stepper_of(args: argparse.Namespace, detector: str, method: str, precision: str) -> tuple[Stepper, Remember]:
    """Return the steps of a method on noise of COCO's size, and their batches."""
    size, backbone = ("64", "tiny") if args.tiny else ("800x1333", "resnet50")
    options = ["--detector", detector, "--method", method, "--precision", precision, "--device", args.device]
    options += ["--size", size, "--backbone", backbone, "--batch", str(args.batch)]
    made, cfg, batches, _ = bench_step.synthetic(bench_step.arguments(options))
    stepper = rehearsal(made, cfg)
    return stepper, Remember(iter(batches(bench_step.first_step(made))), cfg.accumulate)


def timed(args: argparse.Namespace, detector: str, method: str, precision: str) -> dict[str, Any]:
    """Return the figures of one row of steps."""
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    stepper, stream = stepper_of(args, detector, method, precision)
    found = bench_step.bench(stepper, stream, rounds=args.rounds, candidates=300, boxes=7.0)
    gigabytes = torch.cuda.max_memory_allocated() / 1e9 if args.device == "cuda" else 0.0
    with FlopCounterMode(display=False) as counter:
        bench_step.whole_step(stepper, stream, None, time.perf_counter)
    tflops = counter.get_total_flops() / 1e12 / found.whole
    images = args.batch * (1 + stepper.method.uses_unlabeled)
    return {
        "whole": found.whole,
        "bare": found.bare,
        "ratio": found.ratio,
        "images_per_s": images / found.whole,
        "gb": gigabytes,
        "tflops": tflops,
        "mfu": share_of_peak(tflops, precision),
        "phases": found.phases,
        "boxes": found.boxes,
    }


def share_of_peak(tflops: float, precision: str) -> float | None:
    """Return the share of what the card can do at best; None where that is not known, as in fp32."""
    if precision == "fp32" or not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((tflops / peak for part, peak in PEAKS.items() if part in name), None)


def waits(args: argparse.Namespace) -> dict[str, Any]:
    """Count by place where the host waits for the device in a step of Soft Teacher, on Faster R-CNN if not tiny.

    From the backward pass on it must not wait at all: what does is an error.
    """
    stepper, stream = stepper_of(args, "fcos" if args.tiny else "faster_rcnn", "soft_teacher", "bf16")
    method, device = stepper.method, stepper.device
    first = [next(stream)]
    calibrate(method, [send(b, device, channels_last=False) for b in first], 300, 7.0)
    bench_step.whole_step(stepper, stream, None, time.perf_counter)
    stepper.finish = unwaited(stepper.finish, args.device)
    if args.device == "cuda":
        torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            stepper.train_step(stream, bench_step.first_step(method))
    finally:
        if args.device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    found = Counter(place(w) for w in told if "synchroniz" in str(w.message))
    return {"waits": sum(found.values()), "places": [f"{n} x {where}" for where, n in found.most_common()]}


def unwaited(call: Callable[..., Any], device: str) -> Callable[..., Any]:
    """Return ``call`` as one in which a wait for a GPU is an error; elsewhere as it is."""

    def strict(*args: Any) -> Any:
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            return call(*args)
        finally:
            torch.cuda.set_sync_debug_mode(before)

    return strict if device == "cuda" else call


def place(warning: warnings.WarningMessage) -> str:
    """Return the file and line of a warning, without the folders before the package."""
    return re.sub(r"^.*/(ssod|torch|torchvision|tools)/", r"\1/", f"{warning.filename}:{warning.lineno}")


def loader(args: argparse.Namespace) -> dict[str, Any]:
    """Return how long a step of Soft Teacher waits for its batch, with as many readers as cores."""
    size, train = (64, 12) if args.tiny else (800, 200)
    with tempfile.TemporaryDirectory() as folder:
        root = write_shapes(Path(folder) / "data", train=train, val=2, size=size)
        config = Path(folder) / "loader.yaml"
        config.write_text(dump_yaml(loader_config(root, args)))
        options = ["--config", str(config), "--device", args.device, "--steps", str(args.rounds)]
        found = bench_step.main(options)
    return {"data_wait": round(found.phases["data wait"], 4), "step": round(found.whole, 4), "readers": usable_cpus()}


def loader_config(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return a config of Soft Teacher with its views of COCO on the set below ``root``."""
    short = [48, 64] if args.tiny else [400, 1200]
    resize = {"resize": {"short": short, "long": 1333}}
    part = {part: {"format": "coco", "ann": f"annotations/{part}.json", "images": part} for part in ("train", "val")}
    detector = "fcos_tiny_fpn" if args.tiny else "fcos_r50_fpn"
    return {
        "recipe": {"method": "soft_teacher", "detector": detector, "data": "own"},
        "data": {"root": str(root), "labeled": part["train"], "val": part["val"], "split": {"percent": 50, "fold": 1}},
        "views": {
            "labeled": {"weak": [resize, "flip"]},
            "unlabeled": {"weak": [resize, "flip"], "strong": [resize, "flip", "soft_teacher_strong"]},
        },
        "detector": {"weights": "none"},
        "train": {
            "batch": {"labeled": args.batch, "unlabeled": 4 * args.batch},
            "workers": usable_cpus(),
            "device": args.device,
            "precision": "bf16",
        },
    }


def gmm(args: argparse.Namespace) -> dict[str, Any]:
    """Return the milliseconds of the mixtures of 80 classes on the device."""
    device = torch.device(args.device)
    bank = bench_gmm.banks(80, 100).to(device)
    rows = torch.ones(80, dtype=torch.bool, device=device)
    times = [bench_gmm.timed(lambda: bench_gmm.thresholds(bank, rows), device)[0] for _ in range(args.rounds + 1)]
    return {"ms": round(1000 * sorted(times[1:])[args.rounds // 2], 2)}


def export(args: argparse.Namespace) -> dict[str, Any]:
    """Compare ONNX graphs on the provider of the device with torch."""
    import onnxruntime

    provider = CUDA if args.device == "cuda" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        return {"left_out": f"onnxruntime has no {provider}"}
    found: dict[str, Any] = {"provider": provider}
    for name in DETECTORS[:1] if args.tiny else DETECTORS:
        model = export_parity.random_model(name)
        run = runner(convert(model, "onnx"), "onnx", provider)
        swept = export_parity.sweep(model, run, 2 if args.tiny else 10)
        found[name] = f"{swept.parity.line()}; {swept.parity.differ} differ, {swept.crashes} crashes"
        if swept.parity.differ or swept.crashes:
            raise RuntimeError(f"{name}: {found[name]}")
    return found
