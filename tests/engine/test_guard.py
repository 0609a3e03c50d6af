"""No number that is not finite reaches weights, teacher or disk; a transient is skipped, a streak ends the run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ssod.engine.checkpointing import checkpoint
from ssod.engine.stepper import Step
from ssod.engine.trainer import Trainer
from ssod.utils.errors import Exit, SsodError
from tests.engine import toy

NAN, INF = float("nan"), float("inf")


def hurt_gradient(trainer: Trainer) -> None:
    trainer.method.student.head.bias.register_hook(
        lambda g: g.fill_(INF) if 4 <= trainer.step < 4 + trainer.many else g
    )


def hurt_loss(trainer: Trainer) -> None:
    def hook(module: object, args: tuple, losses: dict) -> None:
        if 4 <= args[1] < 4 + trainer.many:
            losses["sup/box"] = losses["sup/box"] * NAN

    trainer.method.register_forward_hook(hook)


def pixels(value: float) -> Callable[[Trainer], None]:
    def hurt(trainer: Trainer) -> None:
        def wrap(batches: Iterator) -> Iterator:
            for i, batch in enumerate(batches):
                if 4 <= i < 4 + trainer.many:
                    batch.labeled.images[0, 0, 4, 4] = value
                yield batch

        trainer.parts.wrap = wrap

    return hurt


def target(trainer: Trainer) -> None:
    def wrap(batches: Iterator) -> Iterator:
        for i, batch in enumerate(batches):
            if 4 <= i < 4 + trainer.many:
                batch.labeled.targets[0].boxes[0, 1] = NAN
            yield batch

    trainer.parts.wrap = wrap


# Where -> what the message must name.
TRANSIENT = {
    "loss": (hurt_loss, "loss sup/box = nan"),
    "gradient": (hurt_gradient, "gradient of student.head.bias"),
    "pixel nan": (pixels(NAN), "loss sup/box = nan"),
    "pixel inf": (pixels(INF), "loss sup/box = nan"),
    "target": (target, "loss sup/box = nan"),
}


def build(folder: toy.RunFolder, hurt: Callable, many: int, **cfg: object) -> Trainer:
    trainer = toy.trainer(folder, **cfg)
    trainer.many = many
    hurt(trainer)
    return trainer


def finite(state: dict) -> bool:
    return all(bool(v.isfinite().all()) for v in state["method"].values())


@pytest.mark.parametrize("where", TRANSIENT)
def test_a_transient_is_skipped_and_leaves_no_trace(tmp_path: Path, where: str) -> None:
    """The state after the bad step is bit for bit the state before it: weights, teacher, buffers, bank, momentum."""
    hurt, _ = TRANSIENT[where]
    states = {}
    with toy.RunFolder(tmp_path / "run") as folder:
        trainer = build(folder, hurt, 1, save_every=1, steps=8)
        save = trainer.save

        def keep() -> None:
            save()
            states[trainer.step] = checkpoint.load(folder.checkpoints / "last.pt")

        trainer.save = keep
        trainer.fit()
    assert set(states) == set(range(1, 9))
    for name, value in states[4]["method"].items():
        assert torch.equal(value, states[5]["method"][name]), name
    momentum = [s["optimizer"]["student.backbone.weight"]["momentum_buffer"] for s in (states[4], states[5])]
    assert torch.equal(*momentum)
    assert not torch.equal(states[5]["method"]["student.head.weight"], states[6]["method"]["student.head.weight"])
    assert all(finite(s) for s in states.values())
    assert states[8]["bad"] == 0


@pytest.mark.parametrize("where", TRANSIENT)
def test_a_copy_of_the_student_that_falls_on_a_skipped_step_is_made(tmp_path: Path, where: str) -> None:
    """Step 4 is bad, and the third after burn-in: the teacher becomes what the student was before it."""
    seen = []
    with toy.RunFolder(tmp_path / "run") as folder:
        ema = {"rule": "copy", "every": 3}
        trainer = build(folder, TRANSIENT[where][0], 1, steps=6, method={"burn_in": 2, "ema": ema})
        step = trainer.stepper.train_step

        def watched(batches: Iterator, number: int) -> Step:
            found = step(batches, number)
            mine, theirs = trainer.method.student.state_dict(), trainer.method.teacher.model.state_dict()
            seen.append(all(torch.equal(mine[name], theirs[name]) for name in mine))
            return found

        trainer.stepper.train_step = watched
        trainer.fit()
    assert seen[2:] == [False, False, True, False]


@pytest.mark.parametrize("where", TRANSIENT)
def test_a_streak_ends_the_run_and_names_the_culprit(tmp_path: Path, where: str) -> None:
    hurt, words = TRANSIENT[where]
    with pytest.raises(SsodError) as caught, toy.RunFolder(tmp_path / "run") as folder:
        build(folder, hurt, 99, save_every=1).fit()
    assert caught.value.code == Exit.DIVERGED
    assert words in str(caught.value)
    assert caught.value.field == "step 6"
    assert "l6-0, l6-1" in str(caught.value)
    state = checkpoint.load(tmp_path / "run/checkpoints/last.pt")
    assert state["step"] == 6
    assert finite(state)


@pytest.mark.parametrize(
    "name",
    ["student.head.weight", "teacher.model.backbone.bias", "student.norm.running_var", "bank", "momentum_buffer"],
)
def test_a_poisoned_state_is_seen_before_it_spreads(tmp_path: Path, name: str) -> None:
    """It cannot heal, so three steps later the run ends, and nothing of it has been written or taught."""

    def poison(trainer: Trainer) -> None:
        step = trainer.stepper.train_step

        def poisoned(batches: Iterator, number: int) -> Step:
            if trainer.step == 4:
                with torch.no_grad():
                    if name == "momentum_buffer":
                        trainer.stepper.optimizer.state[trainer.method.student.head.weight][name].view(-1)[0] = NAN
                    else:
                        trainer.method.state_dict()[name].view(-1)[0] = NAN
            return step(batches, number)

        trainer.stepper.train_step = poisoned

    with toy.RunFolder(tmp_path / "run") as folder:
        trainer = build(folder, poison, 0, save_every=4, eval_every=0)
        with pytest.raises(SsodError) as caught:
            trainer.fit()
    assert caught.value.code == Exit.DIVERGED
    assert name in str(caught.value)
    teacher = trainer.method.teacher.state_dict()
    clean = checkpoint.load(tmp_path / "run/checkpoints/last.pt")
    assert clean["step"] == 4
    for key, value in teacher.items():
        if f"teacher.{key}" != name:
            assert torch.equal(value, clean["method"][f"teacher.{key}"]), key


def test_a_threshold_may_be_infinite(tmp_path: Path) -> None:
    with toy.RunFolder(tmp_path / "run") as folder:
        trainer = toy.trainer(folder)
        trainer.method.register_buffer("limit", torch.tensor(INF))
        trainer.stepper.guard = type(trainer.stepper.guard)(trainer.method, trainer.stepper.optimizer)
        trainer.fit()
    assert trainer.tally.window.skipped == 0


def test_a_huge_rate_never_makes_the_teacher_infinite(tmp_path: Path) -> None:
    """Weights grow by 1e6 a step here; the run must end before any of them overflows."""
    with toy.RunFolder(tmp_path / "run") as folder:
        trainer = toy.trainer(folder, steps=200, lr=1e6, warm_up={"steps": 0}, norm=False, eval_every=0, save_every=1)
        with pytest.raises(SsodError) as caught:
            trainer.fit()
    assert caught.value.code == Exit.DIVERGED
    assert all(bool(v.isfinite().all()) for v in trainer.method.state_dict().values())


def test_a_finite_gradient_that_would_make_a_weight_infinite_is_stopped(tmp_path: Path) -> None:
    """1e30 is a number like any other, but times the learning rate it is not."""

    def huge_once(trainer: Trainer) -> None:
        def hook(gradient: torch.Tensor) -> torch.Tensor:
            return gradient.fill_(1e30) if trainer.step == 4 else gradient.zero_()

        for parameter in trainer.stepper.parameters:
            parameter.register_hook(hook)

    with toy.RunFolder(tmp_path / "run") as folder:
        trainer = build(
            folder, huge_once, 0, lr=1e10, warm_up={"steps": 0}, optimizer={"name": "sgd", "weight_decay": 0}
        )
        before = {name: value.clone() for name, value in trainer.method.named_parameters()}
        trainer.fit()
    assert all(torch.equal(value, before[name]) for name, value in trainer.method.named_parameters())


def test_an_overflow_of_fp16_is_no_fault(tmp_path: Path) -> None:
    """A scale far too large overflows again and again: steps are skipped, the scale halves, nothing else moves."""
    with toy.RunFolder(tmp_path / "run") as folder:
        trainer = toy.trainer(folder, precision="fp16", steps=40, eval_every=0, norm=False)
        trainer.stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
        scales, moved = [], []
        step = trainer.stepper.train_step

        def watched(batches: Iterator, number: int) -> Step:
            before = trainer.method.teacher.model.head.weight.clone()
            stop = step(batches, number)
            scales.append(trainer.stepper.scaler.get_scale())
            moved.append(not torch.equal(before, trainer.method.teacher.model.head.weight))
            return stop

        trainer.stepper.train_step = watched
        trainer.fit()
    skipped = moved.index(True)
    assert skipped > 3, "more than a streak of bad steps, and the run goes on"
    assert scales[:skipped] == [2.0 ** (39 - i) for i in range(skipped)]
    assert scales[skipped] == scales[skipped - 1]
    assert all(moved[skipped:])
    assert trainer.tally.bad == 0


def test_in_fp16_a_loss_that_is_nan_is_a_fault_and_the_scale_stays(tmp_path: Path) -> None:
    with toy.RunFolder(tmp_path / "run") as folder:
        trainer = build(folder, hurt_loss, 99, precision="fp16")
        with pytest.raises(SsodError) as caught:
            trainer.fit()
    assert caught.value.code == Exit.DIVERGED
    assert trainer.stepper.scaler.get_scale() == 2.0**16


def test_in_fp16_a_gradient_that_is_never_finite_ends_the_run(tmp_path: Path) -> None:
    """At scale 1 an overflow can no longer be the scale's fault."""
    with toy.RunFolder(tmp_path / "run") as folder:
        trainer = build(folder, hurt_gradient, 999, precision="fp16", steps=100)
        with pytest.raises(SsodError) as caught:
            trainer.fit()
    assert caught.value.code == Exit.DIVERGED
    assert trainer.stepper.scaler.get_scale() == 1


@pytest.mark.counts_calls
def test_the_device_is_read_once_per_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way from a tensor to a Python number, counted over one step of a trainer that logs nothing."""
    reads = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda t, *a, f=original, n=name: (reads.append((n, t.requires_grad)), f(t, *a))[1]
        )
    with toy.RunFolder(tmp_path / "run") as folder:
        trainer = toy.trainer(folder, steps=12, log_every=0, eval_every=0, save_every=0, clip=1.0)
        counts = []
        step = trainer.stepper.train_step

        def counted(batches: Iterator, number: int) -> Step:
            counts.append(list(reads))  # since the beginning of the step before
            reads.clear()
            return step(batches, number)

        trainer.stepper.train_step = counted
        trainer.fit()
    assert len(counts) == 12
    for made in counts[1:]:
        assert [name for name, _ in made] == ["tolist"], made
