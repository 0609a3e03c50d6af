"""How many frames lie between the command line and a loss formula."""

from pathlib import Path

import pytest

from tests.small import small_config
from tools import call_stack


def test_a_loss_is_near_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For labelled and for unlabelled images; a reader who steps through has to keep them all in mind."""
    monkeypatch.setattr("sys.argv", [])  # the tool sets it
    config = small_config(tmp_path, train__steps=2, train__eval_every=0, method__burn_in=1, method__score=0.0)
    stacks = call_stack.main([str(config)])
    assert [stack[-1].split(":")[0] for stack in stacks] == ["ssod/losses/sigmoid.py"] * 2
    assert max(map(len, stacks)) <= 9, stacks[-1]
