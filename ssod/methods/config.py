"""The knobs that methods share; a method's own ``Config`` adds to them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from ssod.losses.weighting.criterion import LossConfig, SideLoss, SupervisedLoss
from ssod.losses.weighting.registry import RULES
from ssod.methods.ema_config import EmaConfig
from ssod.methods.plateau_config import BurnInSteps, PlateauConfig, spelt_out
from ssod.methods.teacher_config import FileTeacher, TeacherConfig
from ssod.transforms.mix import MixConfig
from ssod.utils.schema import Duration, Section, over_default, own_default

LossName = Literal["cls", "box", "quality", "spread", "rpn_cls", "rpn_box", "aux", "rpn_aux", "weighting"]
Teaching = Literal["boxes", "maps", "distances"]
NEED_MAPS = {"background_reliability"}  # weightings that ask the teacher for more than detections
CHOOSE_ROWS = {name for name, rule in RULES.items() if rule.candidates}  # those that stand in for an assigner


class Common(Section):
    """What every method has, also one without unlabelled images."""

    name: str
    "File name in ssod/methods, or a dotted module of your own, which `--allow-code` lets run."
    ema: EmaConfig = EmaConfig()
    "How the teacher follows the student. What a config leaves out is the method's own default."
    loss: SupervisedLoss | None = None
    "Losses and weightings of labelled images (`sup`); default: the detector's own."

    _own_ema = field_validator("ema", mode="before")(over_default)

    @field_validator("ema")
    @classmethod
    def _rules_need_a_burn_in(cls, ema: EmaConfig) -> EmaConfig:
        if ema.rule != "ema" and "burn_in" not in cls.model_fields:
            raise ValueError(f"'rule: {ema.rule}' holds after burn-in, which this method has not; remove it")
        return ema

    @property
    def restart_at(self) -> int | None:
        """The step before which the student starts afresh, with a schedule that begins anew; None = there is none."""
        return None

    @property
    def burns_in_alone(self) -> bool:
        """Whether a setting makes steps before the first pseudo-label move what those of ``supervised`` do not."""
        return False

    @property
    def matched_sides(self) -> list[SideLoss]:
        """What the config says of the images whose rows are matched to boxes; empty where it says nothing of losses."""
        return [] if self.loss is None else [self.loss.sup]

    @property
    def assigns_by_weighting(self) -> bool:
        """Whether a weighting says which rows learn which box wherever rows are matched to boxes."""
        named = [{spec.name for spec in side.weighting} for side in self.matched_sides]
        return bool(named) and all(names & CHOOSE_ROWS for names in named)


class Config(Common):
    """What every semi-supervised method has; a method's own ``Config`` adds to it."""

    burn_in: BurnInSteps = 0
    """Steps of supervised learning before the first pseudo-label; unlabelled images are not even loaded. `auto`: until
    the teacher's AP has stopped growing (`plateau: {}`), and for 60 % of the steps at most."""
    plateau: PlateauConfig | None = None
    "Ends burn-in sooner, where the teacher's AP has stopped growing; by default nothing does."
    loss: LossConfig | None = None
    "Losses and weightings of labelled (`sup`) and pseudo-labelled (`unsup`) images; default: the detector's own."
    weight: float = Field(1.0, ge=0)
    "Factor of every loss on unlabelled images."
    ramp: Duration = 0
    "Steps after burn-in over which `weight` rises from 0; 0 = at once."
    ramp_shape: Literal["linear", "sigmoid"] = "linear"
    "How `weight` rises over `ramp`: in proportion, or as exp(-5 (1 - t)^2) (arXiv:1703.01780)."
    damping: float = Field(1.0, ge=0, le=1)
    """Factor of the unlabelled losses while fewer than half of the unlabelled images have a pseudo-label; 1 = none. A
    dense detector divides its losses by the boxes' rows, so that images with few boxes teach background many times
    over; Faster R-CNN divides by its sample."""
    hold_back: Annotated[float, Field(gt=0, le=1)] | None = None
    """The unlabelled losses count nothing in a step whose unlabelled images have fewer than this share of the boxes
    that labelled images have; by default they always count. What a teacher misses teaches background."""
    fill: Annotated[float, Field(gt=0, le=1)] | None = None
    """Score from which boxes that the average finds in labelled images are labels, too, after burn-in: of classes of
    which labels are incomplete there, and where no label is. By default nothing is added to labels."""
    loss_weights: dict[LossName, Annotated[float, Field(ge=0)]] = {}
    """Further factors of single losses on unlabelled images; 0 leaves a loss out of the sum, but logs it. A loss that a
    config leaves out has the method's own."""
    mix: MixConfig | None = None
    """Mixup and mosaic of the student's view with labelled images; `{}` = as often as Instant-Teaching. What a mixed
    box lacks to a mass of 1 is background."""

    teacher: TeacherConfig | None = None
    """Who labels unlabelled images; null = the average. Another teacher is a trained detector that never changes,
    `{name: frozen, weights: RUN}`, or a file of boxes, `{name: file, results: boxes.json}`. The average follows the
    student all the same: it is what is measured, kept and exported."""

    _own_weights = field_validator("loss_weights", mode="before")(over_default)
    _auto = model_validator(mode="before")(spelt_out)

    @field_validator("burn_in")
    @classmethod
    def _long_enough_for_the_rule(cls, burn_in: int, info: ValidationInfo) -> int:
        """A teacher that stops following must have followed before, and for as long as ``ema.start`` says."""
        ema = info.data.get("ema")
        if ema is not None and burn_in == 0 and (ema.rule == "never" or (ema.rule == "copy" and ema.every > 1)):
            until = "" if ema.rule == "never" else f" until step {ema.every}"
            raise ValueError(f"with 'ema.rule: {ema.rule}' the teacher would stay untrained{until}; give a burn-in")
        if ema is not None and ema.rule != "ema" and (ema.start or 0) > burn_in:
            raise ValueError(f"'ema.start: {ema.start}' lies after it, where 'ema.rule: {ema.rule}' holds; lower it")
        return burn_in

    @field_validator("ramp_shape")
    @classmethod
    def _shape_of_a_ramp(cls, shape: str, info: ValidationInfo) -> str:
        if shape != own_default(cls, info) and info.data.get("ramp") == 0:
            raise ValueError("has no meaning with 'ramp: 0'; give the ramp's steps")
        return shape

    @model_validator(mode="after")
    def _no_loss_is_named_and_left_out(self) -> Config:
        unsup = SideLoss() if self.loss is None else self.loss.unsup
        own = type(self).model_fields["loss"].default
        for name, factor in self.loss_weights.items():
            if factor != 0 or getattr(unsup, name, None) is None:
                continue
            if own is not None and getattr(own.unsup, name) == getattr(unsup, name):  # no config named it
                problem = f"0 leaves out a loss that '{self.name}' learns from"
                raise refusal(self, ("loss_weights", name), f"{problem}; give it more than 0")
            text = f"'loss_weights.{name}' is 0 and leaves this loss out; remove it"
            raise refusal(self, ("loss", "unsup", name), f"{text}, or set method.loss_weights.{name}=1")
        return self

    @model_validator(mode="after")
    def _every_key_is_read(self) -> Config:
        """Refuse what a method that chooses no boxes would leave unread."""
        if self.taught_by == "boxes":
            return self
        if self.mix is not None:
            problem = f"'mix' blends the student's view, and '{self.name}' compares it with another row by row"
            raise refusal(self, ("mix",), f"{problem}; remove it")
        if self.damping not in (1, type(self).model_fields["damping"].default):
            problem = f"counts images with a pseudo-label, and '{self.name}' makes none"
            raise refusal(self, ("damping",), f"{problem}; remove it")
        if self.hold_back:
            problem = f"counts pseudo-labels, and '{self.name}' makes none"
            raise refusal(self, ("hold_back",), f"{problem}; remove it")
        if self.taught_by == "distances" and self.loss is not None and self.loss.unsup != SideLoss():
            problem = f"'{self.name}' has no losses of rows on pseudo-labels"
            raise refusal(self, ("loss", "unsup"), f"{problem}; remove it, or use e.g. mean_teacher")
        return self

    @model_validator(mode="after")
    def _who_is_never_asked_is_not_named(self) -> Config:
        if self.asks_teacher:
            return self
        if self.teacher is not None:
            problem = f"nobody labels: '{self.name}' compares the student with itself"
            raise refusal(self, ("teacher",), f"{problem}; remove it")
        if self.fill:
            problem = f"asks a teacher about labelled images, and '{self.name}' has none"
            raise refusal(self, ("fill",), f"{problem}; remove it")
        if self.ema.rule != "ema":
            problem = f"'{self.ema.rule}' says who labels, and '{self.name}' asks nobody"
            raise refusal(self, ("ema", "rule"), f"{problem}; remove it: 'decay' alone says what is measured")
        return self

    @model_validator(mode="after")
    def _a_plateau_ends_something(self) -> Config:
        if self.plateau is not None and not self.burn_in:
            raise refusal(self, ("plateau",), "ends burn-in, and 'burn_in' is 0; remove it")
        if self.plateau is not None and self.restart_at is not None:
            problem = f"'{self.name}' starts afresh at a step that is fixed"
            raise refusal(self, ("plateau",), f"{problem}; give burn_in a number of steps")
        return self

    @model_validator(mode="after")
    def _a_file_can_answer(self) -> Config:
        """Refuse a file of boxes where more is asked of a teacher, and one that would never be asked."""
        if not isinstance(self.teacher, FileTeacher):
            return self
        fix = "write {name: frozen, weights: RUN}, or remove it"
        if self.needs_maps:
            problem = f"a file has boxes alone, and '{self.name}' asks its teacher for more than boxes"
            raise refusal(self, ("teacher",), f"{problem}; {fix}")
        asking = self.weightings_of_maps
        if asking:
            problem = f"a file has boxes alone, and the weighting '{min(asking)}' asks the teacher for more than boxes"
            raise refusal(self, ("teacher",), f"{problem}; {fix}")
        if self.teacher.until is not None and self.teacher.until <= self.burn_in:
            problem = f"no label is made before burn-in ends at step {self.burn_in}"
            raise refusal(self, ("teacher", "until"), f"{problem}; raise it, or remove 'teacher'")
        return self

    @property
    def asks_teacher(self) -> bool:
        """Whether who labels is asked in a step at all; where not, ``taught_by`` is ``distances`` to something else."""
        return True

    @property
    def compares_labeled(self) -> bool:
        """Whether ``distill`` compares labelled images, too: their look then is ``Context.labeled``."""
        return False

    @property
    def needs_maps(self) -> bool:
        """Whether the teacher is asked for more than detections: its maps, or what it sees in any box."""
        return self.taught_by != "boxes"

    @property
    def labels_once(self) -> bool:
        """Whether an image is labelled when it is first seen, and never again; its weak view must be free of chance."""
        return False

    @property
    def weightings_of_maps(self) -> set[str]:
        """Those of the config's weightings of unlabelled rows that ask the teacher for more than detections."""
        return set() if self.loss is None else {spec.name for spec in self.loss.unsup.weighting} & NEED_MAPS

    @property
    def matched_sides(self) -> list[SideLoss]:
        """See ``Common``; the rows of unlabelled images are among them where boxes teach."""
        unsup = [] if self.loss is None or self.taught_by != "boxes" else [self.loss.unsup]
        return super().matched_sides + unsup

    @property
    def asks_maps(self) -> bool:
        """Whether the method, or a weighting, asks the teacher for more than detections."""
        return self.needs_maps or bool(self.weightings_of_maps)

    @property
    def unsup_start(self) -> int:
        """First step whose losses on unlabelled images count; from `burn_in` to here labels are only made."""
        return self.burn_in

    @property
    def taught_by(self) -> Teaching:
        """What unlabelled images teach by.

        ``boxes``: pseudo-boxes, which an assigner hands to the rows; they are carried from view to view. ``maps``: the
        method's ``assign`` asks the rows for the teacher's map. ``distances``: the method's ``distill`` compares both
        maps, and rows are asked for nothing. For the last two, views have their pixels in the same places, if a teacher
        is asked.
        """
        return "boxes"

    @property
    def mixes(self) -> bool:
        """Whether images are blended after their boxes are known, so that rows have no place in the teacher's view."""
        return self.mix is not None

    @property
    def blends_unlabeled(self) -> bool:
        """Whether a picture that the student sees may hold several unlabelled images, so that each must be labelled."""
        return False

    @property
    def student_views(self) -> tuple[str, ...]:
        """The unlabelled views that the student learns from, one after the other; their losses are added."""
        return ("strong",)

    @property
    def aligned_views(self) -> tuple[str, ...]:
        """Those of ``student_views`` that must have their pixels where the teacher's view has them."""
        return self.student_views if self.asks_teacher and self.taught_by != "boxes" else ()


def refusal(section: Section, key: tuple[str, ...], text: str) -> ValidationError:
    """Return the error that refuses ``key`` of ``section``, a key that is valid by itself."""
    found = InitErrorDetails(type=PydanticCustomError("value_error", "{text}", {"text": text}), loc=key, input=key[-1])
    return ValidationError.from_exception_data(type(section).__name__, [found])


def rows_keep_their_place(mix: MixConfig | None) -> MixConfig | None:
    """Refuse ``mix`` where the teacher is asked about the places of the student's rows; a validator of that key."""
    if mix is not None:
        raise ValueError("blends images, and the teacher is asked what it sees at each row's place; remove it")
    return mix


def before_the_end(start: int, info: ValidationInfo) -> int:
    """Refuse a ``start`` after which no step would come; a validator of that key."""
    steps = (info.context or {}).get("steps")
    if steps is not None and start >= steps:
        raise ValueError(f"no step of {steps} would learn from unlabelled images; lower it, e.g. to '5%'")
    return start
