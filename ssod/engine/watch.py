"""Signs that self-training goes wrong, told to the user while it can still be mended."""

from collections.abc import Mapping
from typing import Any

_FAR = 10.0


class Watch:
    """Looks at each line of the log and says once, per episode, what lasts too long.

    Args:
        patience: steps that a sign must last; 0 = never say anything.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self._lasting: dict[str, int] = {}

    def look(self, values: Mapping[str, Any], steps: int) -> list[str]:
        """Return what to tell the user.

        Args:
            values: averages of the line: ``pseudo/boxes_per_image``, ``labeled/boxes_per_image``, ``loss/sup``,
                ``loss/unsup``, and what the method reports as ``pseudo/score_*``.
            steps: how many steps the line covers.
        """
        if "pseudo/boxes_per_image" not in values:
            return []
        boxes, truth = values["pseudo/boxes_per_image"], values.get("labeled/boxes_per_image", 0.0)
        sup, unsup = values.get("loss/sup", 0.0), values.get("loss/unsup", 0.0)
        signs = {
            "none": (boxes == 0, f"no pseudo box was kept: {_scores(values)}; lower method.score"),
            "many": (
                boxes > _FAR * truth > 0,
                f"{boxes:.0f} pseudo boxes per image against {truth:.1f} labelled ones: {_scores(values)}; "
                "raise method.score",
            ),
            "loud": (
                unsup > _FAR * sup > 0,
                f"the loss on unlabelled images is {unsup / max(sup, 1e-12):.0f} times the one on labelled images; "
                "lower method.weight",
            ),
        }
        return [text for name, (seen, text) in signs.items() if self._lasts(name, seen, steps)]

    def _lasts(self, name: str, seen: bool, steps: int) -> bool:
        """Count how long a sign has lasted; true when it reaches the patience."""
        before = self._lasting.get(name, 0)
        self._lasting[name] = before + steps if seen else 0
        return bool(self.patience) and before < self.patience <= self._lasting[name]


def _scores(values: Mapping[str, Any]) -> str:
    """Say what the teacher's scores look like, as far as the method tells."""
    parts = []
    for name, value in values.items():
        if name.startswith("pseudo/score_"):
            shown = " ".join(f"{v:.2f}" for v in value) if isinstance(value, list) else f"{value:.2f}"
            parts.append(f"teacher {name.removeprefix('pseudo/').replace('_', ' ')} {shown}")
    return ", ".join(parts) or "the method does not report the teacher's scores"
