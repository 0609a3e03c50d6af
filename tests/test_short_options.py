"""Options that are short for keys: on every command that has one it has its effect, or is refused in one line."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import typer
import yaml

from ssod import cli
from ssod.commands import evaluate as evaluate_command
from ssod.commands.asked import Asked
from ssod.commands.pace import shared, steps_of
from ssod.config import load
from ssod.inference import label, predict
from ssod.inference import model as models
from ssod.utils.errors import Exit, SsodError
from tests.small import small_config
from tests.small_sets import coco, pictures
from tests.test_cli import one_line, ssod
from tests.trained import model_file

SHORT = {
    "--device": ("cpu", {"train.device": "cpu"}),
    "--seed": ("7", {"train.seed": 7}),
    "--epochs": ("10", {"train.steps": 20}),  # 4 of 12 images keep their labels, 2 are seen in a step
    "--batch": ("6", {"train.batch.labeled": 3, "train.batch.unlabeled": 3}),
    "--set": ("train.lr=0.5", {"train.lr": 0.5}),
}
OF_A_CONFIG = {
    "config": set(SHORT),
    "train": set(SHORT),
    "plan": set(SHORT),
    "check": {"--device", "--set"},  # it looks at data: no step is made
    "init": set(SHORT),
}
OF_WEIGHTS = {"eval": {"--device", "--batch", "--set"}, "predict": {"--device", "--batch"}}
OF_WEIGHTS["label"] = OF_WEIGHTS["predict"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_config(tmp_path_factory.mktemp("small"))


def value(tree: dict, key: str) -> object:
    for part in key.split("."):
        tree = tree[part]
    return tree


def test_commands_have_the_options_that_mean_something_to_them() -> None:
    group = typer.main.get_command(cli.app)
    for name, command in group.commands.items():  # type: ignore
        words = {word for option in command.params for word in option.opts} & set(SHORT)
        assert words == (OF_A_CONFIG | OF_WEIGHTS).get(name, set()), name


@pytest.mark.parametrize("option", SHORT)
def test_an_option_is_short_for_a_key(
    option: str, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    text, keys = SHORT[option]
    assert ssod(monkeypatch, "config", str(config), option, text) == 0
    out = capsys.readouterr().out
    tree = yaml.safe_load(out)
    assert {key: value(tree, key) for key in keys} == keys
    assert load(config, [f"{key}={value}" for key, value in keys.items()]).dump() == tree
    marked = [line.split(":")[0].strip() for line in out.splitlines() if line.endswith("# command line")]
    assert marked == [key.rpartition(".")[2] for key in keys]


@pytest.mark.parametrize("command", ["train", "plan", "check", "config"])
def test_every_command_reads_the_same_config(
    command: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``ssod config`` shows of the options is what the others work with."""
    seen = []
    monkeypatch.setattr(Asked, "load", lambda asked, **_: seen.append(asked) or (_ for _ in ()).throw(KeyError))
    model = model_file(tmp_path / "m.safetensors") if command == "check" else None
    words = [word for option in sorted(OF_A_CONFIG[command]) for word in (option, SHORT[option][0])]
    monkeypatch.setattr("sys.argv", ["ssod", command, str(config), *words, *(["--run", str(model)] if model else [])])
    with pytest.raises(KeyError):
        cli.main()
    given = {"device": "cpu", "seed": 7, "epochs": 10.0, "batch": 6, "set": ["train.lr=0.5"]}
    assert seen == [
        Asked(words=[str(config)], **{key: v for key, v in given.items() if f"--{key}" in OF_A_CONFIG[command]})
    ]


def test_passes_and_batch_follow_each_other(config: Path, capsys: pytest.CaptureFixture) -> None:
    cfg = Asked(words=[str(config)], epochs=10, batch=6).load()
    assert (cfg.train.steps, cfg.train.batch.labeled) == (14, 3)
    said = capsys.readouterr().out
    assert "--batch 6: 3 labelled and 3 unlabelled images a step; train.lr is not scaled" in said
    assert "--epochs 10: train.steps=14, 10 passes over 4 labelled images, 3 a step" in said


def test_the_baseline_of_a_batch_sees_as_many_labels(config: Path, capsys: pytest.CaptureFixture) -> None:
    cfg = Asked(words=[str(config), "method.name=supervised"], batch=6).load()
    assert cfg.train.batch.labeled == 3
    assert "3 labelled images a step; 'supervised' leaves out 3 unlabelled" in capsys.readouterr().out


def test_recipes_take_them(capsys: pytest.CaptureFixture) -> None:
    asked = Asked(method="mean_teacher", detector="fcos_tiny_fpn", data="shapes", seed=3, set=["train.lr=0.5"])
    cfg = asked.load()
    assert (cfg.train.seed, cfg.train.lr) == (3, 0.5)


REFUSED = [
    (["--seed", "1", "train.seed=2"], "--seed: 'train.seed=2' says train.seed, too"),
    (["--seed", "1", "train={seed: 2}"], "--seed: 'train={seed: 2}' says train.seed, too"),
    (["--seed", "1", "--set", "train.seed=2"], "--set: '--seed' says train.seed, too"),
    (["--set", "train.lr=1", "train.lr=2"], "--set: 'train.lr=2' says train.lr, too"),
    (["--device", "cpu", "train.device=cpu"], "--device: 'train.device=cpu' says train.device, too"),
    (["--epochs", "3", "train.steps=30"], "--epochs: 'train.steps=30' says train.steps, too"),
    (["--batch", "4", "train.batch.labeled=2"], "--batch: 'train.batch.labeled=2' says train.batch, too"),
    (["--percent", "40", "data.split.percent=20"], "--percent: 'data.split.percent=20' says data.split.percent, too"),
    (["--fold", "2", "data.split={fold: 1}"], "--fold: 'data.split={fold: 1}' says data.split.fold, too"),
    (["--batch", "3"], "--batch: 3 images cannot be shared 1 labelled to 1 unlabelled; give a multiple of 2"),
    (["--epochs", "0"], "--epochs: 0 is no number of passes"),
    (["--epochs", "nan"], "--epochs: nan is no number of passes"),
    (["--device", "gpu"], "--device: 'gpu' is none; give one of auto, cpu, cuda"),
    (["--set", "train.lrr=1"], "train.lrr: unknown key; did you mean 'lr'"),
    (["--set", "train.lr"], "train.lr: not of the form key=value"),
    (["--keys", "--seed", "1"], "--seed: has no effect beside --keys"),
    (["--schema", "--set", "train.lr=1"], "--set: has no effect beside --schema"),
]


@pytest.mark.parametrize(("words", "line"), REFUSED, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_what_nobody_can_mean_is_one_line(
    words: list[str], line: str, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert ssod(monkeypatch, "config", str(config), *words) == Exit.USAGE
    assert line in one_line(capsys.readouterr().err)


def test_check_has_no_device_without_a_model(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert ssod(monkeypatch, "check", str(config), "--device", "cpu") == Exit.USAGE
    assert "--device: is where a model looks, and none is asked; add --run" in one_line(capsys.readouterr().err)


def test_what_is_wrong_with_the_labels_is_told_where_passes_are_counted(config: Path, tmp_path: Path) -> None:
    with pytest.raises(SsodError, match="not found") as caught:
        Asked(words=[str(config), f"data.root={json.dumps(str(tmp_path))}"], epochs=3).load()
    assert caught.value.code == Exit.DATA


@pytest.mark.parametrize("word", ["5", "[1]", "x", "true", "{name: 5}", "null"])
@pytest.mark.parametrize("more", [{}, {"batch": 4}, {"epochs": 2.0}, {"percent": 20.0}], ids=str)
@pytest.mark.parametrize("of_a_file", [True, False])
def test_words_of_the_wrong_kind_are_no_tracebacks(tmp_path: Path, word: str, more: dict, of_a_file: bool) -> None:
    named = {"method": "mean_teacher", "detector": "fcos_tiny_fpn", "data": "shapes"}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({"recipe": named}))
    for key in ("data", "data.split", "data.split.percent", "method", "train", "train.batch", "detector", "views"):
        words = [str(tmp_path / "my.yaml")] if of_a_file else ["data.root=/nowhere"]
        asked = Asked(words=[*words, f"{key}={word}"], **more, **({} if of_a_file else named))
        with contextlib.suppress(SsodError):
            asked.load()


@pytest.mark.parametrize("section", ["data: 5", "data: [1]", "method: 5", "train: x", "train: {batch: 3}"])
@pytest.mark.parametrize("more", [{"batch": 4}, {"epochs": 2.0}, {"percent": 20.0}], ids=str)
def test_sections_of_the_wrong_kind_are_one_line(tmp_path: Path, section: str, more: dict) -> None:
    recipe = "recipe: {method: mean_teacher, detector: fcos_tiny_fpn, data: shapes}"
    (tmp_path / "my.yaml").write_text(f"{recipe}\n{section}\n")
    with pytest.raises(SsodError, match=section.partition(":")[0]):
        Asked(words=[str(tmp_path / "my.yaml")], **more).load()


def test_a_plan_as_json_is_alone_on_standard_output(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert ssod(monkeypatch, "plan", str(config), "--json", "--epochs", "5", "train.workers=0") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["steps"] == 10
    assert "--epochs 5: train.steps=10" in err


def test_shares_and_steps_by_hand() -> None:
    assert steps_of(1.1, 100, 10) == 11
    assert steps_of(1e-9, 1, 10) == 1
    assert shared(40, 4, 16) == (8, 32)
    assert shared(6, 3, 0) == (6, 0)
    assert [steps_of(epochs, 100, 8) for epochs in (0.01, 1, 2.5)] == [1, 13, 32]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    coco(tmp_path / "coco/train.json", tmp_path / "coco/train", [f"{i}.jpg" for i in range(20)])
    pictures(tmp_path / "free", [f"u{i}.png" for i in range(20)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


INIT = ["init", "--labeled", "coco/train.json", "--images", "coco/train", "--unlabeled", "free"]
INIT += ["--detector", "fcos_tiny_fpn", "-o", "my.yaml"]


def test_init_writes_them(own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    words = ["--device", "cpu", "--seed", "7", "--epochs", "500", "--batch", "8", "--set", "train.clip=5"]
    assert ssod(monkeypatch, *INIT, *words) == 0
    assert "--epochs 500: train.steps=2000, 500 passes over 16 labelled images, 4 a step" in capsys.readouterr().out
    assert "train: # 500 passes over the labelled images, as --epochs says" in Path("my.yaml").read_text()
    train = yaml.safe_load(Path("my.yaml").read_text())["train"]
    assert train["batch"] == {"labeled": 4, "unlabeled": 4}
    assert (train["steps"], train["lr"], train["device"], train["seed"], train["clip"]) == (2000, 0.0015, "cpu", 7, 5)


@pytest.mark.parametrize(
    ("words", "every", "evaluations"),
    [
        (["--epochs", "10"], "20 # there are few steps; else 20%", 1),
        (["--epochs", "25"], "20 # there are few steps; else 20%", 3),
        (["--epochs", "50"], "20%", 5),
        (["--epochs", "25", "train.eval_every=5"], "5 # given to ssod init; else 20%", 10),
        (["--epochs", "25", "method.burn_in=auto"], "10% # they end burn-in; else 20%", 10),
    ],
)
def test_init_measures_a_short_training_seldom(
    words: list[str], every: str, evaluations: int, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ssod(monkeypatch, *INIT, *words) == 0
    assert f"\n  eval_every: {every}\n" in Path("my.yaml").read_text()
    train = load("my.yaml").train
    assert -(-train.steps // train.eval_every) == evaluations


@pytest.mark.parametrize(("words", "every"), [(["train.steps=50"], 20), (["train.steps=50", "train.eval_every=5"], 5)])
def test_init_of_known_data_measures_a_short_training_seldom(
    words: list[str], every: int, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ssod(monkeypatch, "init", "--data", "shapes", *words, "-o", "a.yaml") == 0
    assert load("a.yaml").train.eval_every == every
    assert load("a.yaml").train.steps == 50


def test_init_of_known_data_writes_them(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--method", "mean_teacher", "--detector", "fcos_tiny_fpn", "--batch", "8", "--seed", "7"]
    assert ssod(monkeypatch, "init", "--data", "shapes", *words, "-o", "a.yaml") == 0
    train = yaml.safe_load(Path("a.yaml").read_text())["train"]
    assert train == {"seed": 7, "batch": {"labeled": 4, "unlabeled": 4}}
    assert load("a.yaml").train.batch.labeled == 4


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--epochs", "5", "train.steps=100"], "--epochs: 'train.steps=100' says train.steps, too"),
        (["--seed", "5", "--set", "train.seed=1"], "--set: '--seed' says train.seed, too"),
        (["--batch", "64"], "--batch: 32 labelled images a step, but there are 16"),
    ],
)
def test_init_refuses(
    words: list[str], line: str, own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert ssod(monkeypatch, *INIT, *words) == Exit.USAGE
    assert line in one_line(capsys.readouterr().err)
    assert not Path("my.yaml").exists()


def test_eval_turns_them_into_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict = {}
    monkeypatch.setattr(evaluate_command, "evaluate", lambda weights, **how: seen.update(how))
    model = str(model_file(tmp_path / "m.safetensors"))
    words = ["--device", "cpu", "--batch", "3", "--set", "eval.metric=voc", "data.root=x"]
    assert ssod(monkeypatch, "eval", model, *words) == 0
    assert seen["overrides"] == ["data.root=x", "eval.metric=voc", "train.device=cpu", "eval.batch=3"]


def test_eval_refuses_what_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    model = str(model_file(tmp_path / "m.safetensors"))
    assert ssod(monkeypatch, "eval", model, "--set", "train.lr=1") == Exit.USAGE
    assert "train.lr: has no effect on weights that are trained already" in one_line(capsys.readouterr().err)
    assert ssod(monkeypatch, "eval", model, "--batch", "3", "eval.batch=4") == Exit.USAGE
    assert "--batch: 'eval.batch=4' says eval.batch, too" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("command", ["predict", "label"])
def test_where_the_detector_looks(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pictures(tmp_path / "free", ["a.png"])
    model = model_file(tmp_path / "m.safetensors")
    asked: list[str] = []
    real = predict.pick_device
    for place in (predict, models):
        monkeypatch.setattr(place, "pick_device", lambda name: asked.append(name) or real("cpu"))
    words = [command, str(model), str(tmp_path / "free"), "-o"]
    assert ssod(monkeypatch, *words, str(tmp_path / "one"), "--device", "cpu") == 0
    assert ssod(monkeypatch, *words, str(tmp_path / "two")) == 0
    assert asked == ["cpu", "auto"]
    capsys.readouterr()

    def absent(name: str) -> None:
        raise SsodError("config", "train.device", "'cuda' is not available here", "set train.device=cpu")

    monkeypatch.setattr(predict, "pick_device", absent)
    assert ssod(monkeypatch, *words, str(tmp_path / "three"), "--device", "cuda") == Exit.USAGE
    assert "command line: --device: 'cuda' is not available here; leave it out" in one_line(capsys.readouterr().err)
    assert label.predict is predict
