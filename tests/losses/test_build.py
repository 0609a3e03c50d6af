import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from ssod.losses.build import TABLES, Loss, describe, pick
from ssod.losses.sigmoid import focal
from ssod.utils.errors import SsodError
from tests.losses.rows import assignment, predictions

LOSS = TypeAdapter(Loss)


def test_a_name_and_a_table_mean_the_same() -> None:
    assert pick(LOSS.validate_python("focal"), "sigmoid", "f") is focal
    p, a = predictions(torch.randn(3, 2)), assignment(torch.tensor([0, 1, 2]))
    bound = pick(LOSS.validate_python({"name": "focal", "gamma": 1, "alpha": 0.5}), "sigmoid", "f")
    assert torch.equal(bound(p, a), focal(p, a, alpha=0.5, gamma=1))


@pytest.mark.parametrize(
    ("spec", "kind", "needles"),
    [
        ("focl", "sigmoid", ["detector.loss.cls", "unknown loss 'focl'", "'focal'", "anchor, balanced_bce, bce,"]),
        ("cross_entropy", "sigmoid", ["'cross_entropy' is a softmax loss", "sigmoid", "anchor, balanced_bce, bce,"]),
        ("focal", "softmax", ["'focal' is a sigmoid loss", "anchor, cross_entropy, focal_ratio,"]),
        ("giou", "sigmoid", ["'giou' is a box loss"]),
        ({"name": "focal", "gama": 2}, "sigmoid", ["detector.loss.cls.gama", "it has: alpha, gamma"]),
        ({"name": "diou", "beta": 2}, "box", ["no such parameter", "it has none"]),
        ({"name": "focal", "gamma": "two"}, "sigmoid", ["'two' is not a number"]),
        ({"name": "focal", "gamma": True}, "sigmoid", ["True is not a number"]),
        ({"name": "focal", "gamma": -1}, "sigmoid", ["detector.loss.cls.gamma", "-1", "greater than or equal to 0"]),
        ({"name": "focal_star", "gamma": 0}, "sigmoid", ["detector.loss.cls.gamma", "greater than 0"]),
        ("nll", "box", ["'nll' is a box-with-std loss"]),
        ("equalization", "sigmoid", ["class frequencies", "method.loss.sup.cls", "fit: anchor, balanced_bce, bce"]),
    ],
)
def test_mistakes_name_the_key_and_what_fits(spec, kind, needles) -> None:
    with pytest.raises(SsodError) as error:
        pick(LOSS.validate_python(spec), kind, "detector.loss.cls")
    for needle in needles:
        assert needle in str(error.value)


def test_a_loss_that_is_refused_is_not_offered() -> None:
    for counted in (False, True):
        with pytest.raises(SsodError) as error:
            pick(LOSS.validate_python("giou"), "sigmoid", "f", counted=counted)
        assert ("equalization" in str(error.value)) == counted


def test_weight_is_no_parameter_of_the_loss_and_not_negative() -> None:
    spec = LOSS.validate_python({"name": "giou", "weight": 2})
    assert spec.weight == 2
    pick(spec, "box", "f")
    with pytest.raises(ValidationError):
        LOSS.validate_python({"name": "giou", "weight": -1})


def test_describe_lists_every_loss_once() -> None:
    own = {kind: table for kind, table in TABLES.items() if kind not in ("box_std", "aligned", "spread")}
    assert len(describe()) == sum(map(len, own.values())) + 1  # and nll
    assert all(text.endswith((".", "]")) for _, text in describe())


def test_a_dumped_spec_can_be_read_again() -> None:
    spec = LOSS.validate_python({"name": "focal", "gamma": 1.5})
    assert LOSS.validate_python(spec.model_dump(mode="json")) == spec
