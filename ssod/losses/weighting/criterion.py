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
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict
from torch import Tensor, nn

from ssod.losses.build import TABLES, Loss, bind, defaults, first_line, needs_frequency, pick
from ssod.losses.weighting.bayes import Branch, own_loss
from ssod.losses.weighting.candidates import assigner_for
from ssod.losses.weighting.context import Context, Reweight, Side, of_stage
from ssod.losses.weighting.counts import Frequency, RunningObjects
from ssod.losses.weighting.registry import RULES, Rule, Weighting
from ssod.losses.weighting.uncertainty import WithBranch
from ssod.structures import Assignment, Detector, Formula, Predictions, Pseudo, RowLoss
from ssod.utils.errors import SsodError
from ssod.utils.given import given
from ssod.utils.schema import Section, named

ROWS = ("cls", "box", "quality", "rpn_cls", "rpn_box")
# Probability of an object with which a stage's branch begins: that of the class outputs. Two stages learn from samples.
SHARES = {"dense": 0.01, "rpn": 0.5, "roi": 0.5}


class WeightSpec(Section):
    """A weighting by name; further keys are its parameters."""

    model_config = ConfigDict(extra="allow")

    name: str
    "A weighting; `ssod losses` lists them."


NamedWeighting = Annotated[WeightSpec, BeforeValidator(named, json_schema_input_type=str | WeightSpec)]


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
    weighting: Annotated[
        list[NamedWeighting], BeforeValidator(_listed, json_schema_input_type=NamedWeighting | list[NamedWeighting])
    ] = []
    "Weight of each row: a name, `{name:, <parameters>}`, or a list of them, in the order in which they apply."


class SupervisedLoss(Section):
    """Losses on labelled images."""

    sup: SideLoss = SideLoss()
    "On labelled images."


class LossConfig(SupervisedLoss):
    """Losses on labelled and on pseudo-labelled images."""

    unsup: SideLoss = SideLoss()
    "On pseudo-labelled images."


class Criterion(nn.Module):
    """The losses and weightings that a config names, each side's own, and what they learn or count.

    Args:
        student: its head says which losses fit.
        cfg: the config; None names nothing.
        mixes: whether the method blends views after labels exist, so that their rows have no place in the teacher's.
        maps: whether unlabelled rows are asked for the teacher's map, and matched to no boxes.

    Attributes:
        weightings: what changes the weights of a side's rows, in its order.
        factors: of a side's losses, by name.
        assigners: in the place of the detector's own; None where that one serves.

    Raises:
        SsodError: a name, parameter or combination that makes no sense, with those that do.
    """

    def __init__(
        self, student: Detector, cfg: SupervisedLoss | None, *, mixes: bool = False, maps: bool = False
    ) -> None:
        super().__init__()
        sup = SideLoss() if cfg is None else cfg.sup
        unsup = cfg.unsup if isinstance(cfg, LossConfig) else SideLoss()
        sides: dict[Side, SideLoss] = {"sup": sup, "unsup": unsup}
        self.losses = {side: pick_rows(student, part, f"method.loss.{side}") for side, part in sides.items()}
        self.factors = {side: factors_of(part) for side, part in sides.items()}
        made = {
            side: build_weightings(student, part, side, mixes=mixes, maps=maps and side == "unsup")
            for side, part in sides.items()
        }
        self.assigners = {
            side: assigner_for(student, {spec.name: spec.model_extra or {} for spec in part.weighting})
            for side, part in sides.items()
        }
        self.learning = nn.ModuleDict(  # those of them that learn or remember
            {side: nn.ModuleList(w.weigh for w in of if isinstance(w.weigh, nn.Module)) for side, of in made.items()}
        )
        branches, self.aux = build_branches(student, made)
        self.branches = nn.ModuleDict(branches)
        self.objects = nn.ModuleDict({f"{stage}_{side}": RunningObjects() for stage in branches for side in sides})
        self.weightings: dict[Side, list[Reweight]] = {}
        for side, of in made.items():
            # A branch learns from labelled rows always, from others where they are weighted by it.
            guesses = branches and (side == "sup" or any(w.rule.branch for w in of))
            self.weightings[side] = [*([self.guess] if guesses else []), *of]
        counted = any(needs_frequency(loss) for rows in self.losses.values() for loss in rows.values())
        self.frequency = Frequency(student.num_classes) if counted else None

    def rows(self, side: Side, labels: Pseudo | None) -> dict[str, RowLoss]:
        """Return the side's own row losses; those that need class frequencies have them, counted in true labels."""
        if self.frequency is None:
            return self.losses[side]
        if side == "sup" and self.training and labels is not None:
            self.frequency.count(labels.cls)
        share = self.frequency.share()
        return {
            name: partial(loss, frequency=share) if needs_frequency(loss) else loss
            for name, loss in self.losses[side].items()
        }

    def guess(self, stage: str, p: Predictions, a: Assignment, ctx: Context) -> Assignment:
        """Run a stage's auxiliary branch on what its class output read; see ``context.Reweight``; changes nothing."""
        asked = a if a.open is None else replace(a, cls_weight=a.cls_weight * ~a.doubtful(p.image))
        objects = a.cls < p.num_classes if a.cls.ndim == 1 else a.cls.sum(-1) > 0.5
        normalizer = self.objects[f"{stage}_{ctx.side}"](objects & (a.cls_weight > 0), p.num_images)
        read = given(p.cls_features, "these rows are not those that the student's class output made")
        ctx.guesses[stage] = guess = self.branches[stage](read)
        ctx.losses[of_stage(stage, "aux")] = self.aux * own_loss(guess, asked, objects, normalizer)
        return a

    def tie_unused(self, side: Side, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tie what only ``unsup`` learns to a labelled loss, by 0: DDP wants every parameter in every step."""
        idle = list(self.learning["unsup"].parameters()) if side == "sup" else []
        if not idle:
            return losses
        first = next(iter(losses))
        return losses | {first: losses[first] + 0 * sum(p.sum() for p in idle)}


def reaches_labeled(unsup: SideLoss) -> bool:
    """Whether what a config names for unlabelled images has a part in steps that have none of them.

    It has where something is learnt or counted: what learns gets a gradient of 0 and a weight decay, the auxiliary
    branch learns from labelled rows too, and class frequencies are counted in their labels.
    """
    rules = [RULES.get(spec.name) for spec in unsup.weighting]
    named = [table[unsup.cls.name] for table in TABLES.values() if unsup.cls is not None and unsup.cls.name in table]
    return any(rule is None or rule.learns or rule.branch for rule in rules) or any(map(needs_frequency, named))


# ---- from words to parts -------------------------------------------------------------------------------------------


def pick_rows(student: Detector, side: SideLoss, field: str) -> dict[str, Formula]:
    """Return the row losses that a side of the config names."""
    rows: dict[str, Formula] = {}
    for name in ROWS:
        spec = getattr(side, name)
        if spec is None:
            continue
        if name not in student.kinds:
            problem = "this detector has no such loss"
            raise SsodError("config", f"{field}.{name}", problem, f"it has: {', '.join(student.kinds)}")
        rows[name] = pick(spec, student.kinds[name], f"{field}.{name}", counted=name == "cls")
    return rows


def factors_of(side: SideLoss) -> dict[str, float]:
    """Return the factors of the losses that a side of the config names."""
    return {name: getattr(side, name).weight for name in ROWS if getattr(side, name) is not None}


def build_weightings(student: Detector, side_loss: SideLoss, side: Side, *, mixes: bool, maps: bool) -> list[Weighting]:
    """Return the weightings that a side of the config names, in their order."""
    field = f"method.loss.{side}.weighting"
    rules = [find_rule(student, spec.name, field, side, mixes=mixes, maps=maps) for spec in side_loss.weighting]
    check_together(rules, [spec.name for spec in side_loss.weighting], field)
    return [Weighting(rule, make(rule, spec, field)) for rule, spec in zip(rules, side_loss.weighting)]


def find_rule(student: Detector, name: str, field: str, side: Side, *, mixes: bool, maps: bool) -> Rule:
    """Return the weighting ``name``, or refuse it with the list of those that fit here."""
    stages = {"rpn", "roi"} if "rpn_cls" in student.kinds else {"dense"}

    def why_not(rule: Rule) -> str:
        if not stages & set(rule.stages):
            return f"is for {' or '.join(rule.stages)} rows, and this detector has {' and '.join(sorted(stages))} rows"
        if rule.pseudo and side == "sup":
            return "needs a teacher, and labelled rows have none"
        if rule is RULES["background_reliability"] and mixes:
            return "needs the teacher's view of each row, and this method mixes images"
        if student.objectness and rule is RULES["ohem"]:
            return "ranks background by its class loss, and this detector's classes learn no background"
        if student.objectness and rule.softens:
            return "asks classes for how well a box fits, and this detector's objectness is asked for that"
        if rule.matched and maps:
            return "needs boxes that rows are matched to, and this method asks its rows for the teacher's map"
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


def build_branches(student: Detector, made: dict[Side, list[Weighting]]) -> tuple[dict[str, Branch], float]:
    """Return the auxiliary branch of each stage, which both sides share, and the factor of their losses.

    None where nobody wants them.
    """
    users = [w.weigh for of in made.values() for w in of if isinstance(w.weigh, WithBranch)]
    if not users:
        return {}, 0.0
    wanted = [(weigh.build, weigh.aux) for weigh in users]
    if wanted[0] != wanted[-1]:
        problem = f"one branch serves both sides, and they want {wanted[0]} and {wanted[-1]}"
        raise SsodError("config", "method.loss.unsup.weighting", problem, "give both sides the same parameters")
    build, aux = wanted[0]
    per_cell = {stage: 1 if stage == "roi" else student.anchors.per_cell for stage in SHARES}
    layers = student.cls_layers.items()
    return {stage: Branch(layer, per_cell[stage], share=SHARES[stage], **build) for stage, layer in layers}, aux


def describe() -> list[tuple[str, str]]:
    """Return each weighting's name and one line about it: for which rows, and its parameters."""
    return [
        (name, f"weighting, {', '.join(rule.stages)}: {first_line(rule.make)}{defaults(rule.make, 0)}")
        for name, rule in RULES.items()
    ]
