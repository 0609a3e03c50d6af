"""A trained detector labels and never changes: from its file to a loss, and on without the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ssod import build, run
from ssod.config import Config, load
from ssod.engine.checkpointing import checkpoint
from ssod.methods.base import Method
from ssod.methods.registry import find
from ssod.methods.teacher_config import FrozenTeacher
from ssod.methods.teachers import Frozen
from ssod.utils import model_file
from ssod.utils.errors import Exit, SsodError
from tests.small import small_config
from tests.test_methods import DETECTORS, SEMI, batch_for, bits, detector, method, optimizer_of, step, suited

NET = "detector={name: retinanet, backbone: tiny, channels: 16, levels: [3, 5]}"
OFFERED = [name for name in SEMI if name not in ("instant_teaching_rectify", "csd")]  # two models; nobody labels


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_config(tmp_path_factory.mktemp("frozen_teacher"))


@pytest.fixture(scope="module")
def trained(config: Path) -> Path:
    """A run's folder."""
    folder = config.parent / "trained"
    run.train(load(config, ["train.steps=3", "method.burn_in=1", "train.seed=7"]), out=folder)
    return folder


def taught(config: Path, weights: Path | str, *changes: str) -> Config:
    return load(config, [f"method.teacher={weights}", "method.burn_in=2", *changes])


def made(cfg: Config) -> Method:
    return build.build_method(cfg, build.load_data(cfg))


def other(name: str = "mean_teacher") -> torch.nn.Module:
    """A detector with other weights than ``detector`` gives."""
    net = suited(name, detector("fcos"))
    torch.manual_seed(5)
    for p in net.parameters():
        p.data += 0.02 * torch.randn_like(p)
    return net


# ---- which weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["folder", "file", "section", "pt"])
def test_its_weights_are_those_of_the_file(config: Path, trained: Path, tmp_path: Path, how: str) -> None:
    state, _ = model_file.read(trained / "best.safetensors")
    torch.save(state, tmp_path / "w.pt")
    word = {
        "folder": trained,
        "file": trained / "best.safetensors",
        "section": f"{{name: frozen, weights: {trained}}}",
        "pt": tmp_path / "w.pt",
    }
    cfg = taught(config, word[how])
    assert isinstance(cfg.method.teacher, FrozenTeacher)
    m, plain = made(cfg), made(load(config))
    own = m.given.model.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], value) for name, value in state.items())
    for name, value in plain.state_dict().items():  # student and average begin as they would without
        assert torch.equal(m.state_dict()[name], value)


def reordered(trained: Path, path: Path, names: list[str], keep: list[int]) -> Path:
    """Write the trained model with its classes in another order, or with more of them."""
    state, card = model_file.read(trained / "best.safetensors")
    for key in [key for key in state if "cls_logits" in key and len(state[key]) == len(card["classes"]["names"])]:
        state[key] = state[key][keep]
    model_file.save(path, state, card | {"classes": {"names": names, "ids": list(range(len(names)))}})
    return path


def test_classes_go_by_name_and_more_of_them_do_no_harm(config: Path, trained: Path, tmp_path: Path) -> None:
    names = model_file.class_names(trained / "best.safetensors")
    order = [2, 0, 1, *range(3, len(names)), 0]
    file = reordered(trained, tmp_path / "w.safetensors", [*(names[i] for i in order[:-1]), "lorry"], order)
    m, same = made(taught(config, file)), made(taught(config, trained))
    assert all(torch.equal(a, b) for a, b in zip(m.state_dict().values(), same.state_dict().values()))


def refused(cfg: Config, folder: Path) -> SsodError:
    with pytest.raises(SsodError) as caught:
        run.train(cfg, out=folder)
    assert "\n" not in str(caught.value)
    assert caught.value.fix
    assert not (folder / "checkpoints/last.pt").exists()
    return caught.value


def test_a_detector_that_lacks_a_class_is_refused(config: Path, trained: Path, tmp_path: Path) -> None:
    names = model_file.class_names(trained / "best.safetensors")
    file = reordered(trained, tmp_path / "w.safetensors", [*names[:-1], "lorry"], list(range(len(names))))
    error = refused(taught(config, file), tmp_path / "run")
    assert (error.file, error.field, error.code) == (str(file), "classes", Exit.DATA)
    assert f"it does not know {names[-1]}" in error.problem


def test_weights_that_are_no_whole_detector_are_refused(config: Path, trained: Path, tmp_path: Path) -> None:
    state, _ = model_file.read(trained / "best.safetensors")
    file = tmp_path / "w.pt"
    torch.save({name: value for name, value in state.items() if "cls_logits" not in name}, file)
    error = refused(taught(config, file), tmp_path / "run")
    assert (error.file, error.code) == (str(file), Exit.CHECKPOINT)
    assert "weights are not in it" in error.problem
    body = {n.removeprefix("backbone.body."): v for n, v in state.items() if n.startswith("backbone.body.")}
    torch.save(body, file)
    assert refused(taught(config, file), tmp_path / "run").code == Exit.CHECKPOINT


def test_weights_of_another_detector_are_refused(config: Path, trained: Path, tmp_path: Path) -> None:
    error = refused(taught(config, trained, NET), tmp_path / "run")
    assert (error.file, error.code) == (str(trained / "best.safetensors"), Exit.CHECKPOINT)
    assert "does not fit" in error.problem


def test_a_folder_without_a_model_and_a_file_that_is_gone_are_named(config: Path, tmp_path: Path) -> None:
    error = refused(taught(config, tmp_path), tmp_path / "run")
    assert (error.file, error.problem) == (str(tmp_path), "no best.safetensors in this folder")
    gone = tmp_path / "gone.safetensors"
    error = refused(taught(config, gone), tmp_path / "run")
    assert (error.file, error.problem) == (str(gone), "not found")


@pytest.mark.parametrize(
    ("value", "field", "problem"),
    [
        ("nowhere", "method.teacher", "'nowhere' is neither a model file nor a run folder that is there; write {name"),
        ("{name: frozn, weights: x.pt}", "method.teacher.name", "unknown 'frozn'; did you mean 'frozen'?"),
        ("{name: frozen}", "method.teacher.weights", "missing"),
        ("{name: frozen, weights: x.pt, until: 3}", "method.teacher.until", "unknown key"),
        ("3", "method.teacher", "3"),
    ],
)
def test_a_teacher_that_is_none(config: Path, value: str, field: str, problem: str) -> None:
    with pytest.raises(SsodError) as caught:
        load(config, [f"method.teacher={value}"])
    assert (caught.value.field, caught.value.code) == (field, Exit.USAGE)
    assert problem in str(caught.value)


# ---- what it does -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OFFERED)
def test_it_labels_for_every_method_and_never_moves(name: str) -> None:
    """What the frozen one says is what teaches: the losses are those of a method whose average has its weights."""
    m, twin = method(name, detector("fcos")), method(name, detector("fcos"))
    m.use_labeler(Frozen(other(name)))
    twin.labeler(50).model.load_state_dict(other(name).state_dict())
    plain = method(name, detector("fcos"))(batch_for(m), 50)
    losses, expected = m(batch_for(m), 50), twin(batch_for(m), 50)
    assert all(torch.equal(losses[key], expected[key]) for key in expected)
    assert any(not torch.equal(losses[key], plain[key]) for key in plain if key.startswith("unsup/"))
    before = bits(m)
    step(m, batch_for(m), 50, optimizer_of(m))
    moved = {key for key, value in bits(m).items() if not torch.equal(before[key], value)}
    assert any(key.startswith("student.") for key in moved)
    assert any(key.startswith("teacher.") for key in moved)
    assert not any(key.startswith("given.") for key in moved)
    assert not any(p.requires_grad for p in m.given.parameters())
    assert not any(part.training for part in m.train().given.modules())


@pytest.mark.parametrize("net", DETECTORS)
def test_it_is_in_the_state_once(net: str) -> None:
    m = method("mean_teacher", detector(net))
    own = m.state_dict().keys()
    m.use_labeler(Frozen(detector(net)))
    more = [key for key in m.state_dict() if key not in own]
    assert sorted(more) == sorted(f"given.model.{key}" for key in detector(net).state_dict())
    m.labeler(50)
    assert len(m.state_dict()) == len(own) + len(more)


def test_co_rectify_has_teachers_of_its_own(config: Path) -> None:
    with pytest.raises(SsodError, match="two models that label for each other; remove it") as caught:
        load(config, ["method.name=instant_teaching_rectify", "method.teacher=x.pt"])
    assert (caught.value.field, caught.value.code) == ("method.teacher", Exit.USAGE)
    assert find("instant_teaching_rectify").Config(name="x").teacher is None


# ---- a run ------------------------------------------------------------------------------------------------------


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "checkpoints/last.pt")["method"]


def test_a_run_goes_on_with_the_same_bits_without_the_file(
    config: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tmp_path / "start"
    shutil.copytree(trained, start)
    changes = [f"method.teacher={{name: frozen, weights: {start}}}", "method.burn_in=2", "train.eval_every=4"]
    run.train(load(config, [*changes, "train.steps=10"]), out=tmp_path / "whole")
    assert f"labels: a detector that never changes, {start}" in capsys.readouterr().out.splitlines()
    run.train(load(config, [*changes, "train.steps=5"]), out=tmp_path / "parts")
    shutil.rmtree(start)
    run.train(load(config, [*changes, "train.steps=10"]), out=tmp_path / "parts")
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    given, _ = model_file.read(trained / "best.safetensors")
    assert all(torch.equal(whole[f"given.model.{name}"], value) for name, value in given.items())
    exported, _ = model_file.read(tmp_path / "whole/best.safetensors")
    assert exported.keys() == given.keys()
    assert any(not torch.equal(exported[name], value) for name, value in given.items())


def test_a_run_does_not_go_on_with_another_teacher(config: Path, trained: Path, tmp_path: Path) -> None:
    """The checkpoint has the weights of the first one; who names another would be given that one without a word."""
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    changes = ["method.burn_in=2", "train.steps=4"]
    run.train(load(config, [*changes, f"method.teacher={trained}"]), out=tmp_path / "run")
    with pytest.raises(SsodError, match=r"method\.teacher\.weights") as caught:
        run.train(load(config, ["method.burn_in=2", "train.steps=6", f"method.teacher={other}"]), out=tmp_path / "run")
    assert caught.value.code == Exit.CHECKPOINT
