"""Model files to predict with and to export: small detectors, random weights, scores that are spread out."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from ssod.inference.export_parity import texture
from ssod.inference.model import Model, load
from ssod.utils import model_file as modelfile
from tools.export_parity import random_model

RESIZE = {"resize": {"short": 96, "long": 160}}
SIDES = [[[16, 16], [32, 20]], [[60, 60], [80, 120]]]  # of anchors
OWN = {"dense_detector": {"anchors": SIDES, "level_weights": (1, 1)}}


@cache
def trained(name: str) -> Model:
    """Return a detector of three classes on two pyramid levels, the smallest that still has levels to choose from."""
    return random_model(name, levels=(4, 5), channels=16, **OWN.get(name, {}))


def model_file(path: Path, name: str = "retinanet", **card: object) -> Path:
    """Write a model file; ``card`` replaces entries of its card."""
    model = trained(name)
    section = model.card["detector"]
    section = {**section, "decode": {**section["decode"], "score": 0.2}}
    card = {**model.card, "detector": section, "val_view": [RESIZE], **card}
    modelfile.save(path, model.detector.state_dict(), card)
    return path


@cache
def shipped(name: str) -> Model:
    """Return the model of ``model_file(path, name)``."""
    with TemporaryDirectory() as folder:
        return load(model_file(Path(folder) / "best.safetensors", name))


def photos(folder: Path, names: list[str]) -> list[Path]:
    """Write random pictures of 150 x 120, .jpg or .png by name; every third is so pale that nothing is found in it."""
    draw = torch.Generator().manual_seed(5)
    out = []
    for number, name in enumerate(names):
        contrast = 0.05 if number % 3 == 2 else 3.0
        image = ((texture(100, 125, draw) - 0.5) * contrast + 0.5).clamp(0, 1)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).resize((150, 120)).save(path)
        out.append(path)
    return out


def pixels(path: Path) -> torch.Tensor:
    """Return [3, H, W] uint8 of an image file."""
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
