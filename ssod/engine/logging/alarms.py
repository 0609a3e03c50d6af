"""Signs that training goes wrong, reported to the user while it can still be mended."""

import math
from collections.abc import Mapping
from typing import Any

_FAR = 10.0
_WORSE = 0.01  # AP by which the student must lead to be called ahead of its teacher
_COLLAPSED = 0.5  # share of its best AP below which a teacher has collapsed
_LEARNT = 0.05  # AP that a teacher must have had to be able to collapse
_MISSING = 0.99  # share of the rows that learn an object whose boxes miss it, from which they do not learn its place
COLLAPSE = "collapse"


class Watch:
    """Looks at each line of the log and each evaluation, and says once, per episode, what lasts too long.

    Args:
        patience: steps that a sign in the lines must last; 0 = say nothing but that a teacher collapsed.
        more, fewer: what to change in the config for more or fewer pseudo boxes; see ``advice``.
    """

    def __init__(self, patience: int, more: str = "lower method.score", fewer: str = "raise method.score") -> None:
        self.patience, self.more, self.fewer = patience, more, fewer
        self.best = 0.0
        self.teaching = False  # whether unlabelled images are in use yet
        self._lasting: dict[str, int] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return what makes the next alarm the same after a restart."""
        return {"best": self.best, "teaching": self.teaching, "lasting": dict(self._lasting)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state; an empty one, of an older checkpoint, changes nothing."""
        state = {key: value for key, value in state.items() if value is not None}
        self.best, self.teaching = state.get("best", self.best), state.get("teaching", self.teaching)
        self._lasting = dict(state.get("lasting", self._lasting))

    def look(self, values: Mapping[str, Any], steps: int) -> list[str]:
        """Return messages to the user.

        Args:
            values: averages of the line: ``pseudo/boxes_per_image``, ``labeled/boxes_per_image``, ``loss/sup``,
                ``loss/unsup``, what the method reports as ``pseudo/score_*``, and how many rows of a stage learn a
                labelled object, ``rows/<stage>/learning``, and miss it, ``rows/<stage>/missing``.
            steps: how many steps the line covers.
        """
        signs = self._rows(values) | self._pseudo(values)
        return [text for name, (seen, text) in signs.items() if self._lasts(name, seen, steps)]

    def _rows(self, values: Mapping[str, Any]) -> dict[str, tuple[bool, str]]:
        """Return whether the rows of some stage miss their labelled objects, and what to say.

        A line whose steps did not count rows leaves the sign as it was; one without objects is left out.
        """
        stages = [name.removesuffix("learning") for name in values if name.endswith("/learning")]
        shares = [
            values[f"{stage}missing"] / values[f"{stage}learning"] for stage in stages if values[f"{stage}learning"]
        ]
        if stages and not shares:
            return {}
        seen = max(shares) >= _MISSING if shares else self._lasting.get("missing", 0) > 0
        return {
            "missing": (
                seen,
                "nearly all rows that learn a labelled object predict boxes that do not meet it; a loss of IoU has no "
                "slope there, and this seldom mends itself: start again with another train.seed, a lower train.lr, a "
                "longer train.warm_up or, where it is set, without detector.align",
            )
        }

    def _pseudo(self, values: Mapping[str, Any]) -> dict[str, tuple[bool, str]]:
        """Return what may be wrong with pseudo-labels, whether it is, and what to say."""
        if "pseudo/boxes_per_image" not in values:
            return {}
        self.teaching = True
        boxes, truth = values["pseudo/boxes_per_image"], values.get("labeled/boxes_per_image", 0.0)
        beside = f"pseudo boxes per image against {truth:.1f} labelled ones: {_scores(values)}"
        sup, unsup = values.get("loss/sup", 0.0), values.get("loss/unsup", 0.0)
        return {
            "none": (boxes == 0, f"no pseudo box was kept: {_scores(values)}; {self.more}"),
            "many": (boxes > _FAR * truth > 0, f"{boxes:.0f} {beside}; {self.fewer}"),
            "few": (0 < boxes * _FAR < truth, f"{boxes:.2f} {beside}; {self.more}"),
            "loud": (
                unsup > _FAR * sup > 0,
                f"the loss on unlabelled images is {unsup / max(sup, 1e-12):.0f} times the one on labelled images; "
                "lower method.weight",
            ),
        }

    def judge(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the messages of an evaluation to the user, by the name of the sign, ``COLLAPSE`` among them.

        Args:
            values: ``teacher/AP``, ``student/AP`` if it was measured, and ``labeled/boxes/<class>`` and
                ``pseudo/kept/<class>``, boxes per image, if pseudo-labels were looked at.
        """
        ap = values.get("teacher/AP", math.nan)  # no sign but the silent one where there is no AP
        lead = values.get("student/AP", ap) - ap
        silent = self._silent(values) if self.teaching else []
        them = "it" if len(silent) == 1 else "them"
        shown = ", ".join(silent[:5]) + (f" and {len(silent) - 5} more" if len(silent) > 5 else "")
        signs = {
            "behind": (
                lead > _WORSE,
                f"the teacher ({100 * ap:.1f} AP) is behind its student ({100 * (ap + lead):.1f}); "
                "lower method.ema.decay",
            ),
            COLLAPSE: (
                0 <= ap < _COLLAPSED * self.best and self.best > _LEARNT,
                f"collapse: the teacher fell from {100 * self.best:.1f} to {100 * ap:.1f} AP; {self._calmer()}; "
                "best.safetensors keeps the best teacher",
            ),
            "silent": (
                bool(silent),
                f"no pseudo-label of {shown}, though there are labels of {them}; {self.more}, or label more of {them}",
            ),
        }
        self.best = ap if ap > self.best else self.best
        begun = {name: text for name, (seen, text) in signs.items() if self._begins(name, seen)}
        # A collapse is always reported: the run may have to end, or to go back.
        return {name: text for name, text in begun.items() if self.patience or name == COLLAPSE}

    def _calmer(self) -> str:
        """Return what keeps a teacher from falling: before the first pseudo-label the rate alone can."""
        return "lower method.weight or train.lr, or raise method.burn_in" if self.teaching else "lower train.lr"

    def _silent(self, values: Mapping[str, Any]) -> list[str]:
        """Return the classes with labels but without a pseudo-label on the images that were looked at."""
        kept = "pseudo/kept/"
        names = [name.removeprefix(kept) for name, count in values.items() if name.startswith(kept) and count == 0]
        return [name for name in names if values.get(f"labeled/boxes/{name}", 0) > 0]

    def _begins(self, name: str, seen: bool) -> bool:
        """Whether a sign is there that was not there at the evaluation before."""
        before = self._lasting.get(name, 0)
        self._lasting[name] = int(seen)
        return seen and not before

    def _lasts(self, name: str, seen: bool, steps: int) -> bool:
        """Count how long a sign has lasted; true when it reaches the patience."""
        before = self._lasting.get(name, 0)
        self._lasting[name] = before + steps if seen else 0
        return bool(self.patience) and before < self.patience <= self._lasting[name]


def advice(method: object) -> tuple[str, str]:
    """Return what brings more pseudo boxes, and what fewer, by the keys that a method's config section has.

    ``method.threshold`` stands for ``method.score`` where it is given, and so does ``method.reliable``, the share of
    the boxes expected that are chosen.
    """
    if hasattr(method, "reliable"):
        return "raise method.reliable", "lower method.reliable"
    threshold = getattr(method, "threshold", None)
    if threshold is None:
        return "lower method.score", "raise method.score"
    if hasattr(threshold, "score"):
        return "lower method.threshold.score", "raise method.threshold.score"
    fixed = "method.threshold={name: fixed, score: ...}"
    return f"{fixed} sets a lower score by hand", f"{fixed} sets a higher score by hand"


def _scores(values: Mapping[str, Any]) -> str:
    """Say what the teacher's scores look like, as far as the method tells."""
    parts = []
    for name, value in values.items():
        if name.startswith("pseudo/score_"):
            shown = " ".join(f"{v:.2f}" for v in value) if isinstance(value, list) else f"{value:.2f}"
            parts.append(f"teacher {name.removeprefix('pseudo/').replace('_', ' ')} {shown}")
    return ", ".join(parts) or "the method does not report the teacher's scores"
