"""A two-layer detector, a method and batches that need no other part of the package."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssod import structures
from ssod.engine.checkpointing.burn_in import BurnIn
from ssod.engine.checkpointing.run_dir import RunFolder
from ssod.engine.trainer import TrainConfig, Trainer
from ssod.methods import base
from ssod.structures import Batch, Targets, View
from ssod.utils import collective, seeding


class Output:
    """One box per image: center and size from four numbers."""

    stages: dict = {}

    def __init__(self, maps: Tensor, view: View) -> None:
        self.maps, self.view = maps, view

    def detections(self, score: float | None = None) -> list[Targets]:
        """One detection per image."""
        boxes = torch.tensor([4.0, 4.0, 24.0, 20.0]) + self.maps[:, :4].float().cpu()
        return [Targets(b[None], torch.zeros(1, dtype=torch.long), torch.full((1,), 0.5)) for b in boxes]


class Detector(structures.Detector):
    """Convolution, batch norm, dropout, linear layer."""

    num_classes = 2
    rows: dict = {}
    kinds: dict = {}

    def __init__(self, dropout: float = 0.2, norm: bool = True) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3, stride=4)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4, 5)

    def predict(self, view: View) -> Output:
        """Pool the features of each image and regress five numbers."""
        x = F.relu(self.norm(self.backbone(view.images)))
        return Output(self.head(self.dropout(x.mean((2, 3)))), view)

    def losses(self, out: Output, targets: list[Targets]) -> dict[str, Tensor]:
        """Regress the first box; the mean over images, so that micro-batches average to the whole."""
        wanted = torch.stack([t.boxes[0] / 32 for t in targets]).to(out.maps)
        return {"box": F.mse_loss(out.maps[:, :4].float(), wanted), "cls": out.maps[:, 4].float().square().mean()}


class Config(base.Config):
    """The shared knobs alone."""

    name: str = "toy"
    bank: float = 0.1
    "How fast the bank follows; 0 = the step is a plain mean over images."


class Method(base.Method):
    """A mean teacher on the raw maps, with a bank that only the forward pass writes."""

    Config = Config

    def __init__(self, student: Detector, cfg: Config) -> None:
        super().__init__(student, cfg)
        self.register_buffer("bank", torch.zeros(3))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Supervised losses, then consistency with the teacher."""
        self.stats = {"labeled/boxes_per_image": torch.tensor(1.0)}
        sup = self.student.losses(self.student.predict(batch.labeled), batch.labeled.targets)
        losses = self.scale("sup", sup, self.sup_weight(step))
        if step < self.cfg.burn_in:
            return losses
        with torch.no_grad():
            wanted = self.teacher.predict(batch.weak).maps
            self.bank.lerp_(collective.mean_over_ranks(wanted.float().mean()), self.cfg.bank)
            self.seen.add_(len(wanted))
        self.stats["pseudo/boxes_per_image"] = (wanted[:, 0] > 0).float().mean()
        self.stats["pseudo/threshold"] = self.bank.clone()
        if step % 5 == 4:
            self.stats["pseudo/score_quantiles"] = self.bank.clone()
        unsup = {"box": F.mse_loss(self.student.predict(batch.strong).maps.float(), wanted.float() + self.bank[0])}
        return losses | self.scale("unsup", unsup, self.unsup_weight(step, None), self.cfg.loss_weights)


def view(seed: int, stream: str, step: int, first: int, count: int, targets: bool) -> View:
    """``count`` images of the step, beginning with number ``first``; functions of (seed, stream, step, number)."""
    images, boxes = [], []
    for i in range(first, first + count):
        random = seeding.generator(seed, stream, step, i)
        images.append(torch.from_numpy(random.random((3, 32, 32), dtype="float32")))
        boxes.append(torch.tensor([[2.0, 3.0, 20.0, 24.0]]) + images[-1].mean())
    return View(
        torch.stack(images),
        torch.full((count, 2), 32),
        torch.eye(3).repeat(count, 1, 1),
        torch.arange(count),
        [f"{stream}{step}-{i}" for i in range(first, first + count)],
        [Targets(b, torch.zeros(1, dtype=torch.long)) for b in boxes] if targets else None,
    )


def batches(start: int, cfg: TrainConfig, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    """What the loader promises: step ``s`` means the same images however it is cut up."""
    step = start
    while True:
        for micro in range(cfg.accumulate):
            part, parts = rank * cfg.accumulate + micro, world * cfg.accumulate
            n, m = cfg.batch.labeled // parts, cfg.batch.unlabeled // parts
            labeled = view(cfg.seed, "l", step, part * n, n, True)
            weak, strong = (view(cfg.seed, name, step, part * m, m, False) for name in ("w", "s"))
            yield Batch(labeled, {"weak": weak, "strong": strong})
        step += 1


BATCH = {"labeled": 4, "unlabeled": 4}
CLASSES = {"names": ["a", "b"], "ids": [1, 2]}


def score(detector: nn.Module) -> dict[str, float]:
    """A number that depends on every weight."""
    return {"AP": float(sum(p.double().sum() for p in detector.state_dict().values())) % 1, "AP/a": 0.5}


@dataclass
class Parts:
    """The parts of a toy run: synthetic batches through ``wrap``, and whatever measures a detector."""

    folder: RunFolder
    cfg: TrainConfig
    identity: dict[str, Any]
    allow_change: Collection[str] = ()
    wrap: Callable[[Iterator[Batch]], Iterator[Batch]] = lambda batches: batches
    evaluate: Callable[[nn.Module], dict[str, float]] = score
    pictures: Callable[[int], dict[str, np.ndarray]] = lambda step: {}
    phase: Callable[[int], str] = lambda step: ""
    evaluates: bool = True
    burn_in: BurnIn = field(default_factory=lambda: BurnIn(2, lambda step: {"step": step}))
    card: dict[str, Any] = field(
        default_factory=lambda: {"detector": {"name": "toy"}, "classes": CLASSES, "val_view": []}
    )

    def begin(self) -> list[str]:
        """Nothing to write or to tell."""
        return []

    def batches(self, start: int, ahead: int = 0) -> Iterator[Batch]:
        """This rank's share of the synthetic batches."""
        return self.wrap(batches(start, self.cfg, collective.rank(), collective.world_size()))

    def diagnose(self, step: int, method: nn.Module) -> dict[str, float]:
        """Nothing to look at."""
        return {}


OPTIONS = ("evaluate", "allow_change", "pictures", "phase", "wrap", "burn_in")


def trainer(folder: RunFolder, *, dropout: float = 0.2, norm: bool = True, method: dict | None = None, **cfg: Any):
    """A trainer of the toy on synthetic batches, evaluated on what its weights sum to."""
    identity = {"classes": CLASSES, "data": "abc", "config": {}, **cfg.pop("identity", {})}
    options = {name: cfg.pop(name) for name in OPTIONS if name in cfg}
    settings = {"steps": 12, "log_every": 3, "eval_every": 4, "save_every": 5, "lr": 0.05, "batch": BATCH, **cfg}
    config = TrainConfig.model_validate(settings, context={"steps": settings["steps"]})
    torch.manual_seed(7)
    toy = Method(
        Detector(dropout, norm), Config.model_validate({"burn_in": 2, "ema": {"decay": 0.9}, **(method or {})})
    )
    return Trainer(toy, config, Parts(folder, config, identity, **options))


def run(path: Path, **kwargs: Any) -> dict[str, float]:
    """Train the toy in the folder ``path``, in one thread: processes that share a run have the same sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with RunFolder(path) as folder:
            return trainer(folder, **kwargs).fit()
    finally:
        torch.set_num_threads(threads)
