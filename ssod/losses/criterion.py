"""Losses and weightings by config, for labelled and for pseudo-labelled rows apart.

    method:
      loss:
        sup: {cls: focal}
        unsup: {cls: {name: focal_ratio, gamma: 1.5}, weighting: uncertainty}

What is silent is the detector's own. Whatever is learnt here besides the detector, an auxiliary branch or a weighting
network, belongs to the method and not to the detector: teacher and exported model have the plain one's parameters.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict
from torch import Tensor, nn

from ssod.errors import SsodError
from ssod.losses.bayes import Branch, own_loss
from ssod.losses.counts import Frequency, RunningObjects
from ssod.losses.pick import Loss, bind, defaults, first_line, needs_frequency, pick
from ssod.losses.scene import Scene
from ssod.losses.weighting import RULES, Rule
from ssod.schema import Section, named
from ssod.structures import Assignment, Batch, Detector, Output, Predictions, Reweight, RowLoss, Targets

ROWS = ("cls", "box", "quality", "rpn_cls", "rpn_box")


class WeightSpec(Section):
    """A weighting by name; further keys are its parameters."""

    model_config = ConfigDict(extra="allow")

    name: str
    "A weighting; `ssod losses` lists them."


Weighting = Annotated[WeightSpec, BeforeValidator(named)]


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


class SideLoss(Section):
    """Losses of one kind of images; what is left out is the detector's own."""

    cls: Loss | None = None
    "Class loss, a name or `{name:, weight:, <parameters>}`; `weight` multiplies the detector's own."
    box: Loss | None = None
    "Box loss."
    quality: Loss | None = None
    "Loss of the quality branch."
    rpn_cls: Loss | None = None
    "Object-or-not loss of the proposal network."
    rpn_box: Loss | None = None
    "Box loss of the proposal network."
    weighting: Annotated[list[Weighting], BeforeValidator(_listed)] = []
    "Who counts how much: a name, `{name:, <parameters>}`, or a list of them, in the order in which they apply."


class LossConfig(Section):
    """Losses on labelled and on pseudo-labelled images."""

    sup: SideLoss = SideLoss()
    "On labelled images."
    unsup: SideLoss = SideLoss()
    "On pseudo-labelled images."


class Criterion(nn.Module):
    """From what a student saw and the boxes of its images to losses, as a config wants it.

    Args:
        student: its row losses are the defaults, its head says which fit.
        cfg: the config.
        pseudo: whether the method learns from pseudo-boxes by this class at all.
        mixes: whether the method blends views after labels exist, so that their rows have no place in the teacher's.

    Raises:
        SsodError: a name, parameter or combination that makes no sense, with those that do.
    """

    def __init__(self, student: Detector, cfg: LossConfig, *, pseudo: bool = True, mixes: bool = False) -> None:
        super().__init__()
        if not pseudo and cfg.unsup != SideLoss():
            problem = "this method has no losses of rows on pseudo-labels"
            raise SsodError("config", "method.loss.unsup", problem, "remove it, or use e.g. mean_teacher")
        sides = {"sup": cfg.sup, "unsup": cfg.unsup}
        self.rows = {side: pick_rows(student, part, f"method.loss.{side}") for side, part in sides.items()}
        self.weighers = {side: weighers(student, part, side, mixes) for side, part in sides.items()}
        self.learning = nn.ModuleDict(  # those of them that learn or remember
            {s: nn.ModuleList(w for _, w in made if isinstance(w, nn.Module)) for s, made in self.weighers.items()}
        )
        self.branch, self.aux = build_branch(student, self.weighers)
        self.objects = nn.ModuleDict({side: RunningObjects() for side in sides} if self.branch is not None else {})
        counted = any(row.counted for rows in self.rows.values() for row in rows.values())
        self.frequency = Frequency(student.num_classes) if counted else None

    def forward(
        self,
        side: str,
        student: Detector,
        out: Output,
        targets: list[Targets],
        reweight: Reweight | None = None,
        teacher: Output | None = None,
        batch: Batch | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Assign, reweight and reduce.

        Args:
            side: ``sup`` or ``unsup``.
            student: the detector.
            out: what it saw.
            targets: the boxes of each image.
            reweight: the method's own reweighting, applied first.
            teacher: its output on ``batch.weak``, where there is one.
            batch: the step's images, where there is a teacher.

        Returns:
            Scalar losses, and detached statistics for the log.
        """
        own = self.own_rows(side, targets)
        scene = Scene(targets, student.rows | own, teacher, batch, divisor=student.divisor)
        assigned = {}
        for stage, (p, a) in student.assign(out, targets).items():
            if reweight is not None:
                a = reweight(stage, p, a)
            self.guess(side, stage, out, p, a, scene)
            for rule, weigher in self.weighers[side]:
                if stage in rule.stages:
                    a = weigher(stage, p, a, scene)
            assigned[stage] = (p, a)
        losses = student.reduce(out, assigned, own) | scene.losses
        return self.touched(side, losses), scene.stats

    def own_rows(self, side: str, targets: list[Targets]) -> dict[str, RowLoss]:
        """Return the side's own row losses; those that need class frequencies have them."""
        if self.frequency is None:
            return dict(self.rows[side])
        if side == "sup" and self.training:
            self.frequency.count(targets)
        return {name: row.with_frequency(self.frequency.share()) for name, row in self.rows[side].items()}

    def guess(self, side: str, stage: str, out: Output, p: Predictions, a: Assignment, scene: Scene) -> None:
        """Run the auxiliary branch. It learns from labelled rows always, from others where they are weighted by it."""
        wanted = side == "sup" or any(rule.branch for rule, _ in self.weighers[side])
        if self.branch is None or not wanted or stage not in ("dense", "rpn"):
            return
        objects = a.cls < p.num_classes if a.cls.ndim == 1 else a.cls.sum(-1) > 0.5
        count = self.objects[side](objects & (a.cls_weight > 0), p.num_images)
        scene.guesses[stage] = self.branch(out.pyramid)
        scene.losses["aux"] = self.aux * own_loss(scene.guesses[stage], a, objects, count)

    def touched(self, side: str, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tie what only ``unsup`` learns to a labelled loss, by 0: DDP wants every parameter in every step."""
        idle = list(self.learning["unsup"].parameters()) if side == "sup" else []
        if not idle:
            return losses
        first = next(iter(losses))
        return losses | {first: losses[first] + 0 * sum(p.sum() for p in idle)}


# ---- from words to parts -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A row loss times a number.

    Attributes:
        loss: as ``pick`` returns it.
        factor: the number.
        counted: whether the loss needs class frequencies.
    """

    loss: RowLoss
    factor: float
    counted: bool

    def __call__(self, p: Predictions, a: Assignment) -> Tensor:
        """See ``structures.RowLoss``."""
        return self.factor * self.loss(p, a)

    def with_frequency(self, share: Tensor) -> Row:
        """Return the same with class frequencies [K], where it needs them."""
        return replace(self, loss=partial(self.loss, frequency=share)) if self.counted else self


def pick_rows(student: Detector, side: SideLoss, field: str) -> dict[str, Row]:
    """Return the row losses that a side of the config names."""
    rows: dict[str, Row] = {}
    for name in ROWS:
        spec = getattr(side, name)
        if spec is None:
            continue
        if name not in student.kinds:
            problem = "this detector has no such loss"
            raise SsodError("config", f"{field}.{name}", problem, f"it has: {', '.join(student.kinds)}")
        loss = pick(spec, student.kinds[name], f"{field}.{name}", counted=name == "cls")
        rows[name] = Row(loss, spec.weight, needs_frequency(loss))
    return rows


def weighers(student: Detector, side_loss: SideLoss, side: str, mixes: bool) -> list[tuple[Rule, Any]]:
    """Return the weightings that a side of the config names, in their order."""
    field = f"method.loss.{side}.weighting"
    rules = [find_rule(student, spec.name, field, side, mixes) for spec in side_loss.weighting]
    check_together(rules, [spec.name for spec in side_loss.weighting], field)
    return [(rule, make(rule, spec, field)) for rule, spec in zip(rules, side_loss.weighting)]


def find_rule(student: Detector, name: str, field: str, side: str, mixes: bool) -> Rule:
    """Return the weighting ``name``, or refuse it with the list of those that fit here."""
    stages = {"rpn", "roi"} if "rpn_cls" in student.kinds else {"dense"}

    def why_not(rule: Rule) -> str:
        if not stages & set(rule.stages):
            return f"is for {' or '.join(rule.stages)} rows, and this detector has {' and '.join(sorted(stages))} rows"
        if rule.pseudo and side == "sup":
            return "needs a teacher, and labelled rows have none"
        if rule is RULES["background_reliability"] and mixes:
            return "needs the teacher's view of each row, and this method mixes images"
        return ""

    fits = ", ".join(n for n, rule in RULES.items() if not why_not(rule))
    if name not in RULES:
        near = difflib.get_close_matches(name, RULES, 1)
        hint = f", did you mean '{near[0]}'?" if near else ""
        raise SsodError("config", field, f"unknown weighting '{name}'{hint}", f"those that fit: {fits}")
    if why_not(RULES[name]):
        raise SsodError("config", field, f"'{name}' {why_not(RULES[name])}", f"those that fit: {fits}")
    return RULES[name]


def check_together(rules: list[Rule], names: list[str], field: str) -> None:
    """Refuse weightings of one side that contradict each other."""
    clashes = {
        "are one and the same": [n for n in names if names.count(n) > 1],
        "both set the class target": [n for n, rule in zip(names, rules) if rule.softens],
        "both need the auxiliary branch to themselves": [n for n, rule in zip(names, rules) if rule.branch],
    }
    for problem, found in clashes.items():
        if len(found) > 1:
            raise SsodError("config", field, f"{' and '.join(found[:2])} {problem}", f"keep one of: {', '.join(found)}")


def make(rule: Rule, spec: WeightSpec, field: str) -> Any:
    """Return the reweighter with the config's parameters."""
    made = bind(rule.make, "weighting", spec.name, spec.model_extra or {}, field, skip=0)
    return made() if rule.learns else made


def build_branch(student: Detector, weighers: dict[str, list[tuple[Rule, Any]]]) -> tuple[Branch | None, float]:
    """Return the one auxiliary branch that both sides share, and the factor of its loss; None where nobody wants it."""
    users = {side: weigher for side, made in weighers.items() for rule, weigher in made if rule.branch}
    if not users:
        return None, 0.0
    wanted = [(weigher.build, weigher.aux) for weigher in users.values()]
    if wanted[0] != wanted[-1]:
        problem = f"one branch serves both sides, and they want {wanted[0]} and {wanted[-1]}"
        raise SsodError("config", "method.loss.unsup.weighting", problem, "give both sides the same parameters")
    build, aux = wanted[0]
    return Branch(student.backbone.out_channels, student.anchors.per_cell, **build), aux


def describe() -> list[tuple[str, str]]:
    """Return each weighting's name and one line about it: for which rows, and its parameters."""
    return [
        (name, f"weighting, {', '.join(rule.stages)}: {first_line(rule.make)}{defaults(rule.make, 0)}")
        for name, rule in RULES.items()
    ]
