"""What the run folder beside a model file says of its training: the facts of a model card."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssod.evaluation import matching
from ssod.utils import untrusted
from ssod.utils.errors import SsodError
from ssod.utils.model_file import Card
from ssod.utils.yaml_io import read_yaml


@dataclass
class RunFacts:
    """Facts of a run; what is None, or empty, is not known.

    Attributes:
        labeled: labelled images that it was taught with.
        unlabeled: images without labels.
        boxes: labelled boxes.
        share: which draw of the labels, in words.
        sources: name of a part of ``data`` -> what it is read from, in words, without folders of the machine.
        val_images: images that AP was measured on.
        val_boxes: boxes to find in them.
        notes: what could not be read.
    """

    labeled: int | None = None
    unlabeled: int | None = None
    boxes: int | None = None
    share: str = ""
    sources: dict[str, str] = field(default_factory=dict)
    val_images: int | None = None
    val_boxes: int | None = None
    notes: list[str] = field(default_factory=list)


def run_facts(weights: Path, card: Card) -> RunFacts | None:
    """Return what the folder of a model file says of it; None where that folder is no run's, or another run's.

    Args:
        weights: the model file.
        card: of it. Its split must be that of the folder.
    """
    file = weights.parent / "split.json"
    if not file.is_file() or not (weights.parent / "config.yaml").is_file():
        return None
    facts = RunFacts()
    try:
        split = untrusted.read_json(untrusted.Source(file, "remove it"))
        untrusted.of_kind(untrusted.Source(file, "remove it"), "", split, dict)
    except SsodError:
        return None  # nothing says that the folder is of these weights
    if split.get("hash") != card.get("split_hash"):
        return None
    facts.labeled, facts.unlabeled = _count(split.get("labeled")), _count(split.get("unlabeled"))
    counts = split.get("boxes")
    if isinstance(counts, dict) and all(_count(n) is not None for n in counts.values()):
        facts.boxes = sum(counts.values())
    if isinstance(split.get("percent"), int | float):
        facts.share = f"{split['percent']:g} % of the labels, fold {split.get('fold')}"
    _read_config(facts, weights.parent / "config.yaml")
    _read_matches(facts, weights.parent / "eval" / f"step_{card.get('step')}.npz")
    return facts


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _read_config(facts: RunFacts, file: Path) -> None:
    """Note what the parts of ``data`` are read from. No module that a config names is imported for that."""
    try:
        config = read_yaml(file)
    except SsodError:
        facts.notes.append(f"{file.name} cannot be read: which data these are is not known.")
        return
    data = config.get("data") if isinstance(config, dict) else None
    for name in ("labeled", "unlabeled", "val"):
        part = data.get(name) if isinstance(data, dict) else None
        sources = [source for source in (part if isinstance(part, list) else [part]) if isinstance(source, dict)]
        if sources:
            facts.sources[name] = ", ".join(map(_source, sources))


def _source(section: dict[str, Any]) -> str:
    """Return format and name of a source, such as ``voc neu-det test``; of paths, the last part alone."""
    place = next((section[key] for key in ("ann", "root", "path", "images") if isinstance(section.get(key), str)), "")
    words = (section.get("format"), Path(place).name, section.get("split"))
    return " ".join(str(word) for word in words if word)


def _read_matches(facts: RunFacts, file: Path) -> None:
    """Note how many images and boxes an evaluation was of."""
    if not file.is_file():
        return
    try:
        found = matching.read(file)
    except SsodError:
        facts.notes.append(f"{file.name} cannot be read: on how many images AP was measured is not known.")
        return
    facts.val_images, facts.val_boxes = len(found.ids), int(found.wanted.sum())
