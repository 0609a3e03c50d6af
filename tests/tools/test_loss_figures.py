"""Figures come from real computations: a run of seconds, and what the panels must show."""

import matplotlib.image
import numpy as np
import pytest
import torch

from ssod import config, run
from ssod.detectors.build import build
from ssod.engine.checkpointing import checkpoint
from ssod.inference.weights_file import weights_file
from ssod.losses.build import settable
from ssod.losses.sigmoid import SIGMOID, SOFTMAX
from ssod.utils import model_file
from ssod.utils.errors import Exit
from tests.small import small_config
from tools.loss_curves import panels
from tools.loss_figures import cumulative, heat, looks, main
from tools.options import picture


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("figures")
    loss = {"sup": {"weighting": "uncertainty"}}
    path = small_config(folder, method__loss=loss, train__steps=4, method__burn_in=2, train__eval_every=0)
    run.train(config.load(path), out=folder / "run")
    return folder / "run"


def test_every_parameter_of_every_class_loss_has_a_panel() -> None:
    found = panels(torch.linspace(-5, 5, 41))
    for prefix, table in (("", SIGMOID), ("softmax ", SOFTMAX)):
        for name, loss in table.items():
            assert any(title.split(":")[0] == prefix + name for title in found), name
            for key, parameter in settable(loss, 2).items():
                labels = [label for label, _ in found[f"{prefix}{name}: {key}"]]
                assert len(labels) > 1
                assert f"{key} {parameter.default:g} (default)" in [label.removesuffix(": 0") for label in labels]


def test_panels_show_what_the_losses_do() -> None:
    found = panels(torch.linspace(-5, 5, 41))
    for title, lines in found.items():
        values = torch.stack([value for _, value in lines])
        assert values.isfinite().all(), title
        assert len({tuple(v.tolist()) for v in values}) == len(lines), title
        assert all(label.endswith(": 0") != bool(value.any()) for label, value in lines), title
    for title in ("focal: gamma", "focal_star: beta", "focal_ratio: gamma", "balanced_bce: alpha"):
        assert all((value.diff() < 0).all() for _, value in found[title])
    assert all((value.diff() < 0).all() for _, value in found["softmax softmax_focal: gamma"])
    assert all((value.diff() >= 0).all() for _, value in found["anchor: p_y"])
    frequent, rare = found["equalization: lam"]
    assert rare[0] == "lam 0.00176 (default): 0"
    assert (frequent[1] > 0).all()


def test_gamma_moves_the_loss_to_hard_negatives() -> None:
    """Lin et al. 2017, figure 4: strongly for negatives, which are mostly easy."""
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) - 4
    lines = [cumulative(x, 0.0, gamma) for gamma in (0.0, 0.5, 1.0, 2.0)]
    for line in lines:
        assert line[-1] == pytest.approx(1)
        assert (np.diff(line) >= 0).all()
    halves = [np.searchsorted(line, 0.5) / len(x) for line in lines]
    assert halves == sorted(halves)
    assert halves[-1] > 0.95 > 0.85 > halves[0]


def test_the_models_file_is_that_of_a_plain_detector(trained) -> None:
    """The branch that weighted the run is in its checkpoint, and not in what the run gives away."""
    state, card = model_file.read(weights_file(trained))
    cfg = config.load(trained / "config.yaml")
    plain = build(cfg.detector, len(card["classes"]["names"]), pretrained=False).state_dict()
    assert {name: value.shape for name, value in state.items()} == {name: v.shape for name, v in plain.items()}
    saved = checkpoint.load(checkpoint.find(trained / "checkpoints"))["method"]
    assert any(name.startswith("criterion.branches.dense.") for name in saved)


def test_heat_maps_paint_rows_where_they_are(trained) -> None:
    seen = next(iter(looks(trained, 1)))
    chosen = torch.zeros(len(seen.p), dtype=torch.bool)
    row = 3 * seen.p.grids[0][1] + 5  # cell (3, 5) of the finest level, stride 8
    chosen[row] = True
    painted = heat(torch.full((len(seen.p),), 0.7), chosen, seen.p, (64, 64))
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[24:32, 40:48] = True
    assert torch.equal(painted.isfinite(), inside)
    assert painted[inside].unique().tolist() == pytest.approx([0.7])


@pytest.mark.parametrize("figure", ["curves", "cumulative", "uncertainty"])
def test_pictures_are_written(figure: str, trained, tmp_path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "figure.png"
    source = [] if figure == "curves" else [str(trained)]
    assert main([figure, *source, "-o", str(out), "--images", "2"]) == 0
    assert matplotlib.image.imread(out).std() > 0.05
    printed = capsys.readouterr().out
    if figure == "cumulative":
        assert printed.count("have half of the loss") == 8
    if figure == "uncertainty":
        assert "correct rows" in printed
        assert "wrong rows" in printed


def test_two_stages_say_that_anchors_are_sampled(tmp_path, capsys: pytest.CaptureFixture) -> None:
    small = {"rpn": {"rows": 32, "before": [60, 60], "after": [30, 30]}, "roi": {"rows": 16, "hidden": 32, "size": 3}}
    detector = {"name": "faster_rcnn", "backbone": "tiny", "channels": 16, **small}
    changes = {"train__steps": 1, "method__burn_in": 0, "train__eval_every": 0, "detector": detector}
    path = small_config(tmp_path, method__loss={"sup": {"weighting": "conv_bayes"}}, **changes)
    run.train(config.load(path), out=tmp_path / "run")
    assert main(["uncertainty", str(tmp_path / "run"), "-o", str(tmp_path / "x.png"), "--images", "1"]) == 0
    assert "correct sampled anchors: " in capsys.readouterr().out


def test_what_cannot_be_drawn_says_why(trained, tmp_path, capsys: pytest.CaptureFixture) -> None:
    plain = small_config(tmp_path, train__steps=1, method__burn_in=0, train__eval_every=0)
    run.train(config.load(plain), out=tmp_path / "plain")
    assert main(["uncertainty", str(tmp_path / "plain"), "-o", "x.png"]) == Exit.USAGE
    assert "train with weighting: uncertainty" in capsys.readouterr().err
    branch = small_config(
        tmp_path / "branch",
        method__loss={"sup": {"weighting": "plain_conv"}},
        train__steps=1,
        method__burn_in=0,
        train__eval_every=0,
    )
    run.train(config.load(branch), out=tmp_path / "plain_conv")
    assert main(["uncertainty", str(tmp_path / "plain_conv"), "-o", "x.png"]) == Exit.USAGE
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert "a plain convolution is never uncertain" in line
    assert main(["cumulative", str(tmp_path / "nothing"), "-o", "x.png"]) != 0
    with pytest.raises(SystemExit):
        main(["curves", str(trained), "-o", "x.png"])


def test_files_that_cannot_be_drawn_to(tmp_path, capsys: pytest.CaptureFixture) -> None:
    assert main(["curves", "-o", str(tmp_path / "x.foo")]) == Exit.USAGE
    assert "x.foo' has no known ending; use one of " in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["curves", "-o", str(tmp_path / "file" / "x.png")]) == Exit.IO
    (tmp_path / "x.png").mkdir()
    assert main(["curves", "-o", str(tmp_path / "x.png")]) == Exit.IO
    assert capsys.readouterr().err.count("cannot be written") == 2
    picture(tmp_path / "new" / "folder" / "x.svg")
    assert (tmp_path / "new" / "folder").is_dir()
    with pytest.raises(SystemExit):
        main(["uncertainty", str(tmp_path), "-o", "x.png", "--images", "0"])
    assert "--images: '0' is not 1 or more" in capsys.readouterr().err
