"""Exported graphs for tests: one written by hand, which finds the same in every image, and what its file says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import ssod
from ssod.utils import model_file
from tests.small import small_config
from tests.trained import trained

BOX = (10.0, 12.0, 30.0, 28.0)
PORTS: dict[str, tuple[int, Sequence[int | str]]] = {
    "images": (TensorProto.FLOAT, ("batch", 3, "height", "width")),
    "sizes": (TensorProto.INT64, ("batch", 2)),
    "boxes": (TensorProto.FLOAT, ("batch", 2, 4)),
    "scores": (TensorProto.FLOAT, ("batch", 2)),
    "labels": (TensorProto.INT64, ("batch", 2)),
}


def card(**changes: Any) -> dict[str, Any]:
    """Return the card of a small detector of three classes, whose graph has no box below 0.2."""
    own = trained("retinanet").card
    detector = {**own["detector"], "decode": {**own["detector"]["decode"], "score": 0.2}}
    return {"format": model_file.FORMAT, **own, "detector": detector, **changes}


def metadata(card: Any, **changes: str | None) -> dict[str, str]:
    """Return what an exported file says beside its graph; None leaves an entry out."""
    names = card["classes"]["names"] if isinstance(card, dict) and isinstance(card.get("classes"), dict) else []
    said = {"card": json.dumps(card), "names": json.dumps(names), "divisor": "32", **changes}
    return {key: value for key, value in said.items() if value is not None}


def model(
    said: dict[str, str],
    box: Sequence[float] = BOX,
    score: float = 0.9,
    label: int = 1,
    ports: dict[str, tuple[int, Sequence[int | str]]] = PORTS,
) -> onnx.ModelProto:
    """Return a graph that finds one box, and a padded one, in each of N images."""
    values = {
        "boxes": np.array([[box, (0, 0, 0, 0)]], np.float32),
        "scores": np.array([[score, 0]], np.float32),
        "labels": np.array([[label, 0]], np.int64),
    }
    held = [numpy_helper.from_array(value, f"one_{name}") for name, value in values.items()]
    held += [numpy_helper.from_array(np.array([at]), f"at_{at}") for at in (0, 1)]
    held += [numpy_helper.from_array(np.ones(n - 1, np.int64), f"rest_{n}") for n in (2, 3)]
    nodes = [
        helper.make_node("Shape", ["sizes"], ["shape"]),
        helper.make_node("Slice", ["shape", "at_0", "at_1"], ["n"]),
    ]
    for name, value in values.items():
        nodes.append(helper.make_node("Concat", ["n", f"rest_{value.ndim}"], [f"shape_{name}"], axis=0))
        nodes.append(helper.make_node("Expand", [f"one_{name}", f"shape_{name}"], [name]))
    infos = {name: helper.make_tensor_value_info(name, *port) for name, port in ports.items()}
    outputs = [info for name, info in infos.items() if name in values or name.startswith("out")]
    inputs = [info for name, info in infos.items() if info not in outputs]
    graph = helper.make_graph(nodes, "by_hand", inputs, outputs, held)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(made, said)
    return made


def measured_by(weights: Path, photos: Sequence[Path], score: float, most: int = 3) -> Path:
    """Write a config whose val images show what a model is sure of, each box moved by ``most`` pixels or less."""
    folder, draw, model = photos[0].parent, np.random.RandomState(0), ssod.load(weights)
    tree: dict = {"images": [], "annotations": []}
    tree["categories"] = [{"id": i, "name": name} for i, name in enumerate(model.classes.names)]
    for number, (path, found) in enumerate(zip(photos, model(photos, score=score))):
        width, height = Image.open(path).size
        tree["images"].append({"id": number, "file_name": path.name, "width": width, "height": height})
        for box, label in zip(found.boxes.tolist(), found.labels.tolist()):
            by = draw.randint(-most, most + 1, 2)
            x, y = (float(np.clip(box[i] + by[i], 0, side - 4)) for i, side in enumerate((width, height)))
            sides = [min(box[2] - box[0], width - x), min(box[3] - box[1], height - y)]
            row = {"image_id": number, "category_id": label, "bbox": [x, y, *sides], "area": sides[0] * sides[1]}
            tree["annotations"].append({"id": len(tree["annotations"]) + 1, "iscrowd": 0, **row})
    (folder / "val.json").write_text(json.dumps(tree))
    val = {"format": "coco", "ann": "val.json", "images": "."}
    return small_config(folder / "config", data__root=str(folder), data__val=val)


def write(path: Path, proto: onnx.ModelProto | None = None) -> Path:
    """Write a graph; by default that of ``card``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((model(metadata(card())) if proto is None else proto).SerializeToString())
    return path
