"""tools/bench_weighting.py: both make real steps, and only one of them has the weighting."""

import pytest

from ssod.utils.errors import SsodError
from tools.bench_weighting import Cost, arguments, main, noise, stepper_of

TINY = ["--backbone", "tiny", "--size", "64", "--batch", "1", "--device", "cpu", "--cpu-time", "--steps", "1"]


def test_the_cost_is_a_ratio_of_medians() -> None:
    assert Cost([1.0, 2.0, 9.0], [3.0, 2.2, 1.0]).ratio == pytest.approx(1.1)


def test_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    found = main(["uncertainty", "--detector", "fcos", *TINY])
    assert len(found.plain) == len(found.weighted) == 1
    assert "ratio" in capsys.readouterr().out


def test_one_has_the_branch_and_both_keep_pseudo_boxes() -> None:
    args = arguments(["uncertainty", "--detector", "fcos", *TINY])
    batch = noise(1, 64, True)
    plain, weighted = (stepper_of(args, name, batch) for name in (None, "uncertainty"))
    assert not plain.method.criterion.branches
    assert set(weighted.method.criterion.branches) == {"dense"}
    for stepper in (plain, weighted):
        stepper.method(batch, 0)
        assert stepper.method.stats["pseudo/boxes_per_image"] > 0


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SsodError, match=r"detector\.name: unknown 'foo'"):
        main(["uncertainty", *TINY, "--detector", "foo"])
    for argv, words in ((["--steps", "0"], "'0' is not 1 or more"), (["--cpu-time"], "needs --device cpu")):
        with pytest.raises(SystemExit):
            arguments(argv)
        assert words in capsys.readouterr().err
