"""Loss against logit, for every class loss that a config can name and every parameter that it has.

Panels are computed by the functions that train; ``tools/loss_figures.py`` draws them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssod.losses.build import settable
from ssod.losses.sigmoid import SIGMOID, SOFTMAX
from ssod.structures import Assignment, Predictions, RowLoss
from ssod.structures.boxes import DeltaCoder

Line = tuple[str, Tensor]  # label, loss at each of the logits
Form = Callable[..., Tensor]  # (logits, **parameters) -> losses

ALPHAS, GAMMAS, EPS = (0.1, 0.25, 0.5, 0.75), (0.0, 0.25, 0.5, 1.0, 2.0), (0.0, 0.1, 0.3)
STAR = {"gamma": (1.0, 2.0, 4.0), "beta": (0.0, 1.0, 2.0)}
RATIO = {"gamma": GAMMAS, "max_factor": (1.0, 3.0, 1e3)}
ANCHOR = {"delta": (0.0, 0.05, 0.5), "gamma": (0.0, 0.5, 1.0, 2.0)}
# What is varied, one parameter a panel; the others have their defaults, but for ``FIXED``.
VALUES: dict[str, dict[str, tuple[float, ...]]] = {
    "balanced_bce": {"alpha": ALPHAS},
    "focal": {"alpha": ALPHAS, "gamma": (0.0, 0.5, 1.0, 2.0, 5.0)},
    "focal_star": {"alpha": ALPHAS, **STAR},
    "focal_ratio": {"alpha": ALPHAS, **RATIO},
    "quality_focal": {"beta": (0.0, 1.0, 2.0, 4.0)},
    "varifocal": {"alpha": (0.25, 0.75, 1.5), "gamma": (0.0, 1.0, 2.0, 4.0)},
    "anchor": ANCHOR,
    "equalization": {"lam": (5e-4, 1.76e-3)},
    "label_smoothing": {"eps": EPS},
}
SOFTMAX_VALUES: dict[str, dict[str, tuple[float, ...]]] = {
    "softmax_focal": {"gamma": (0.0, 0.5, 1.5, 3.0)},
    "focal_star": STAR,
    "focal_ratio": RATIO,
    "anchor": ANCHOR,
    "label_smoothing": {"eps": EPS},
}
FIXED = {name: {"alpha": -1.0} for name in ("focal", "focal_star", "focal_ratio")}
SHARE = 1e-3  # of the images that have equalization's other class


def panels(x: Tensor) -> dict[str, list[Line]]:
    """Return the lines of each panel, by title: a parameter of a loss, or what else its value depends on.

    Args:
        x: [R] logits.
    """
    found = {"bce: target": targets("bce", x, (1, 0))}
    for name, values in VALUES.items():
        for key, chosen in values.items():
            found[f"{name}: {key}"] = varied(FORMS.get(name, alone(name)), SIGMOID[name], x, key, chosen, name)
    found["quality_focal: target"] = targets("quality_focal", x, (0, 0.5, 1))
    found["varifocal: target"] = targets("varifocal", x, (0, 0.3, 0.6, 1))
    found["anchor: p_y"] = [(f"p_y {p:g}", rival(x, p)) for p in (0.1, 0.5, 0.9)]
    found["softmax cross_entropy"] = [("two classes", two_classes(SOFTMAX["cross_entropy"])(x))]
    for name, values in SOFTMAX_VALUES.items():
        for key, chosen in values.items():
            found[f"softmax {name}: {key}"] = varied(two_classes(SOFTMAX[name]), SOFTMAX[name], x, key, chosen)
    return found


def varied(
    form: Form, loss: RowLoss, x: Tensor, key: str, values: tuple[float, ...], name: str | None = None
) -> list[Line]:
    """Return one line for each value of a parameter; its default is named."""
    default = settable(loss, 2)[key].default
    fixed = {k: v for k, v in FIXED.get(name, {}).items() if k != key}
    lines = []
    for value in values:
        label = f"{key} {value:g}" + (" (default)" if value == default else "")
        line = form(x, **fixed | {key: value})
        lines.append((label if line.any() else f"{label}: 0", line))
    return lines


def targets(name: str, x: Tensor, values: tuple[float, ...]) -> list[Line]:
    """Return one line for each target of the only class."""
    return [(f"target {q:g}", alone(name, q)(x)) for q in values]


# ---- which row is looked at ----------------------------------------------------------------------------------------


def rows(logits: Tensor, cls: Tensor, softmax: bool = False) -> tuple[Predictions, Assignment]:
    """Return predictions and assignment that have nothing but classes."""
    r = len(logits)
    none, zero = torch.zeros(r, 4), torch.zeros(r, dtype=torch.long)
    p = Predictions(logits, none[:, None], none, zero, torch.ones(1, 2).long(), DeltaCoder(), softmax)
    return p, Assignment(cls, torch.ones(r), none, torch.zeros(r))


def alone(name: str, target: float = 1.0) -> Form:
    """Return the loss of a row of the only class, asked for ``target``."""

    def form(x: Tensor, **params: float) -> Tensor:
        return SIGMOID[name](*rows(x[:, None], torch.full((len(x), 1), float(target))), **params)

    return form


def rival(x: Tensor, true: float = 0.5, **params: float) -> Tensor:
    """Anchor loss of another class at each logit, while the true one has probability ``true``; without its term."""
    fixed = torch.logit(torch.full_like(x, true))
    loss = SIGMOID["anchor"](*rows(torch.stack([fixed, x], 1), torch.zeros(len(x), dtype=torch.long)), **params)
    return loss - F.softplus(-fixed)


def spared(x: Tensor, **params: float) -> Tensor:
    """Equalization loss of another class, which ``SHARE`` of the images have, at each logit of a foreground row."""
    fixed, frequency = torch.zeros_like(x), torch.tensor([0.5, SHARE])
    asked = rows(torch.stack([fixed, x], 1), torch.zeros(len(x), dtype=torch.long))
    return SIGMOID["equalization"](*asked, frequency=frequency, **params) - F.softplus(-fixed)


def smooth(x: Tensor, eps: float) -> Tensor:
    """Smoothed BCE of an object's row among 20 classes, less the least that its other classes can cost."""
    cls = torch.zeros(len(x), dtype=torch.long)
    rest = torch.logit(torch.full((len(x), 19), eps / 20), eps=1e-7)
    loss = SIGMOID["label_smoothing"](*rows(torch.cat([x[:, None], rest], 1), cls), eps=eps)
    return loss - F.binary_cross_entropy_with_logits(rest, torch.full_like(rest, eps / 20), reduction="none").sum(1)


def two_classes(loss: RowLoss) -> Form:
    """Return the loss of an object's row of a softmax head with one class and background, at each log-odds."""

    def form(x: Tensor, **params: float) -> Tensor:
        logits = torch.stack([x, torch.zeros_like(x)], 1)
        return loss(*rows(logits, torch.zeros(len(x), dtype=torch.long), softmax=True), **params)

    return form


# Losses whose parameters do not act on a row of the only class, or not on an object's.
FORMS: dict[str, Form] = {
    "quality_focal": alone("quality_focal", 0.5),
    "varifocal": alone("varifocal", 0.0),
    "anchor": rival,
    "equalization": spared,
    "label_smoothing": smooth,
}
# What the logit is that of, where it is not an object's own class and all else as it is by default.
SEEN = {
    **{f"{name}: {key}": "the class, no alpha" for name in FIXED for key in VALUES[name] if key not in FIXED[name]},
    "quality_focal: beta": "the class, target 0.5",
    "varifocal: alpha": "the class, target 0",
    "varifocal: gamma": "the class, target 0",
    "anchor: delta": "a rival, p_y 0.5",
    "anchor: gamma": "a rival, p_y 0.5",
    "anchor: p_y": "a rival",
    "equalization: lam": f"a rival in {SHARE:.1%} of the images",
}
