"""Which runs make a row, which of them count, and what the gain over the baseline is made of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ssod.commands.compare import compare, find
from ssod.experiments import bootstrap, settings, tables
from ssod.experiments.groups import Group, groups_of
from ssod.experiments.runs import read_run
from ssod.experiments.settings import rows_of
from ssod.experiments.standings import standings
from tests.experiments.fake import fake_run


def groups(*folders: Path) -> tuple[list[Group], list[str]]:
    return groups_of(rows_of([read_run(folder) for folder in folders]), resamples=20)


# ---- measured alike ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [60, 50])
def test_a_row_has_one_val_set(tmp_path: Path, images: int) -> None:
    runs = [fake_run(tmp_path / "a", fold=1, ap=0.6), fake_run(tmp_path / "s", "supervised", 1)]
    runs.append(fake_run(tmp_path / "b", fold=2, ap=0.2, about={"val": "w" * 64}, images=images))
    (one, two), (line,) = groups(*runs)
    assert [(row.name, len(row.runs)) for row in one.ranked] == [("mean_teacher (val set=vvvvvvvvvvvv)", 1),
                                                                 ("supervised", 1)]  # fmt: skip
    assert [(row.name, len(row.runs)) for row in two.ranked] == [("mean_teacher (val set=wwwwwwwwwwww)", 1)]
    assert "val set vvvvvvvvvvvv and wwwwwwwwwwww" in line
    assert list(one.gains["mean_teacher (val set=vvvvvvvvvvvv)"].units) == ["fold 1"]


def test_val_sets_are_reported_apart_by_name_where_nothing_else_is_known(tmp_path: Path) -> None:
    other = {"data.val": {"format": "coco", "ann": "other.json", "images": "x"}}
    runs = [fake_run(tmp_path / "a", fold=1, saved=False), fake_run(tmp_path / "b", fold=2, saved=False, changes=other)]
    found, (line,) = groups(*runs)
    assert [len(row.runs) for group in found for row in group.ranked] == [1, 1]
    assert "other.json x" in line


def test_a_run_that_saved_no_matches_is_ranked_by_the_name_of_its_val_set(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / "a", ap=0.8, saved=False), fake_run(tmp_path / "s", "supervised")]
    (group,), refusals = groups(*runs)
    assert refusals == []
    assert [row.name for row in group.ranked] == ["mean_teacher", "supervised"]
    assert group.gains == {}
    assert group.differences["mean_teacher"] == pytest.approx(group.ranked[0].mean() - group.ranked[1].mean())
    assert "no interval" in tables.gain_text(group, group.ranked[0])
    group.differences["mean_teacher"] = -1e-5
    assert tables.gain_text(group, group.ranked[0]) == "+0.0 [no interval]"
    more = fake_run(tmp_path / "b", fold=2, ap=0.8)
    (row, _) = rows_of([read_run(run) for run in (*runs, more)])
    assert len(row.runs) == 2  # a row has runs with and without


def test_a_name_that_stands_for_two_val_sets_says_nothing(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / "a", saved=False), fake_run(tmp_path / "s", "supervised")]
    runs.append(fake_run(tmp_path / "t", "unbiased_teacher", about={"val": "w" * 64}))
    found, _ = groups(*runs)
    assert [[row.name for row in group.ranked] for group in found] == [
        ["mean_teacher"], ["supervised"], ["unbiased_teacher"]]  # fmt: skip


# ---- each fold and seed once ---------------------------------------------------------------------------------------


def test_a_folder_named_twice_is_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(tmp_path / "runs" / "a")
    (tmp_path / "link").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    assert find(["runs/a", run, "link", "runs/../runs"]) == [Path("runs/a")]


def test_a_fold_and_seed_count_once(tmp_path: Path) -> None:
    old, baseline = fake_run(tmp_path / "a", ap=0.6), fake_run(tmp_path / "s", "supervised")
    copied = shutil.copytree(old, tmp_path / "a-2")
    (group,), _ = groups(old, baseline, copied)
    assert tables.ranking(group, standings([group])).rows[0][2:4] == ["1 x 1", f"{100 * read_run(old).ap():.1f}"]
    assert f"mean_teacher: {copied} is not counted: it repeats fold 1, seed 0 of {old}" in group.notes
    new = fake_run(tmp_path / "a-0", ap=0.8)
    for run, time in ((old, "2026-01-01T09:00:00+0000"), (new, "2026-01-01T09:00:00-0100"), (copied, None)):
        (run / "exit.json").write_text(json.dumps({"code": 0, "time": time}))
    found = compare([old, baseline, copied, new], out=[tmp_path / "c.csv", tmp_path / "c.html"], resamples=20)
    row = found.rows[0]
    assert [run.path for run in row.runs] == [new]  # the one that finished last
    assert [run.path for run in row.repeated] == [old, copied]
    assert [line.split(",")[3] for line in (tmp_path / "c.csv").read_text().splitlines() if "repeated" in line] == [
        "mean_teacher", "mean_teacher"]  # fmt: skip


def test_a_run_folder_has_a_config_and_a_split(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "more" / "a")
    (tmp_path / "config.yaml").write_text("base: x\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "split.json").write_text("{}")
    assert find([tmp_path]) == [run]


# ---- splits in common ----------------------------------------------------------------------------------------------


def test_rows_are_ranked_on_the_folds_they_share(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / f"s{fold}", "supervised", fold, ap=0.4) for fold in (1, 2)]
    runs += [fake_run(tmp_path / f"m{fold}", "mean_teacher", fold, ap=0.6) for fold in (2, 3)]
    (group,), refusals = groups(*runs)
    assert refusals == []
    assert [[run.fold for run in row.runs] for row in group.ranked] == [["2"], ["2"]]
    assert list(group.gains["mean_teacher"].units) == ["fold 2"]
    assert [note.split(";")[0] for note in group.notes] == [
        f"{name}: 1 split that other rows lack left out" for name in ("supervised", "mean_teacher")]  # fmt: skip
    whole = rows_of([read_run(run) for run in runs])[1]
    assert group.notes[1].endswith(f"AP over all 2: {whole.spread()}")


def test_a_baseline_is_found_in_another_group(tmp_path: Path) -> None:
    """Three rows make a group on fold 1; the only baseline has fold 2, as one of them has."""
    runs = [fake_run(tmp_path / f"m{fold}", "mean_teacher", fold, ap=0.6) for fold in (1, 2)]
    runs += [fake_run(tmp_path / name, name, 1) for name in ("unbiased_teacher", "humble_teacher")]
    runs.append(fake_run(tmp_path / "s", "supervised", 2))
    (group, other), _ = groups(*runs)
    assert [row.name for row in other.ranked] == ["supervised"]
    assert len(group.ranked) == 3
    assert group.gains.keys() == {"mean_teacher"}
    assert list(group.gains["mean_teacher"].units) == ["fold 2"]
    assert "gain of mean_teacher: on what both have, fold 2: 1 of its 2 runs, 1 of the baseline's 1" in group.notes


# ---- what the gain is made of --------------------------------------------------------------------------------------


def test_a_gain_of_some_seeds_says_so(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / f"m{seed}", seed=seed, ap=0.3 + 0.2 * seed) for seed in (0, 1, 2)]
    baselines = [fake_run(tmp_path / f"s{seed}", "supervised", seed=seed, ap=0.4) for seed in (0, 1)]
    (group,), _ = groups(*runs, *baselines)
    assert group.gains["mean_teacher"].scope == "2 seeds of one fold"
    assert group.notes == [
        "gain of mean_teacher: on what both have, seed 0, seed 1: 2 of its 3 runs, 2 of the baseline's 2"]  # fmt: skip
    expected = sum(read_run(run).ap() for run in runs[:2]) / 2 - sum(read_run(run).ap() for run in baselines) / 2
    assert group.gains["mean_teacher"].value == pytest.approx(expected)


def test_a_gain_without_shared_seeds_counts_the_runs(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / f"m{seed}", seed=seed) for seed in (0, 1, 2)]
    (group,), _ = groups(*runs, fake_run(tmp_path / "s", "supervised", seed=7))
    assert group.gains["mean_teacher"].scope.startswith("one fold, 3 runs against 1: ")
    assert group.notes == []
    more = [fake_run(tmp_path / f"f{name}", name, 2) for name in ("supervised", "mean_teacher")]
    (group,), _ = groups(*runs, *more, tmp_path / "s")
    assert group.gains["mean_teacher"].scope == "2 folds, 4 runs against 2"


def test_folds_with_unlike_numbers_of_seeds_are_reported(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / f"{f}-{s}", fold=f, seed=s) for f, s in ((1, 0), (1, 1), (2, 0), (2, 1), (2, 2))]
    for count, words in ((5, "2 folds, 5 runs"), (4, "2 x 2")):
        (group,), _ = groups(*runs[:count])
        assert tables.ranking(group, standings([group])).rows[0][2] == words


def test_a_run_is_resampled_once_for_all_its_gains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    resample = bootstrap.mean_ap
    monkeypatch.setattr(bootstrap, "mean_ap", lambda table, weights: measured.append(table) or resample(table, weights))
    names = ("supervised", "mean_teacher", "humble_teacher")
    runs = [fake_run(tmp_path / f"{name}{fold}", name, fold) for name in names for fold in (1, 2)]
    runs.append(fake_run(tmp_path / "u", "unbiased_teacher", 1))
    found, _ = groups(*runs)
    assert len(found) == 2
    assert sum(len(group.gains) for group in found) == 5
    assert len(measured) == len(runs)


# ---- names ---------------------------------------------------------------------------------------------------------


def test_rows_that_have_no_short_difference_are_named_by_their_folders(tmp_path: Path) -> None:
    long = [{"data.unlabeled": {"format": "coco", "ann": letter * 70, "images": letter * 70}} for letter in "ab"]
    runs = [fake_run(tmp_path / letter, changes=changes) for letter, changes in zip("ab", long)]
    out = [tmp_path / "c.html", tmp_path / "c.md", tmp_path / "c.csv"]
    found = compare(runs, out=out, resamples=20)
    names = [row.name for row in found.rows]
    assert names == ["mean_teacher (setting 1)", "mean_teacher (setting 2)"]
    notes = [note for group in found.groups for note in group.notes]
    assert f"{names[0]} is {runs[0]}" in notes
    keys = "data.unlabeled.ann, data.unlabeled.images"
    assert f"{names[1]} is {runs[1]}; it differs from setting 1 in {keys}" in notes
    page, table, _ = (file.read_text() for file in out)
    assert str(runs[1]) in table
    assert page.count(names[1]) > 1


def test_rows_of_a_sweep_that_have_no_short_difference_have_the_names_of_the_sweep(tmp_path: Path) -> None:
    long = [{"data.unlabeled": {"format": "coco", "ann": letter * 70, "images": letter * 70}} for letter in "ab"]
    runs = [fake_run(tmp_path / letter / "fold1-seed0", changes=changes) for letter, changes in zip("ab", long)]
    found = compare(runs, resamples=20)
    assert [row.name for row in found.rows] == ["mean_teacher (a)", "mean_teacher (b)"]
    notes = [note for group in found.groups for note in group.notes]
    assert f"mean_teacher (b) is {runs[1]}; it differs from a in data.unlabeled.ann, data.unlabeled.images" in notes


def test_a_run_that_did_not_finish_has_its_row(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / "a"), fake_run(tmp_path / "b", "unbiased_teacher", code=None)]
    compare(runs, out=[tmp_path / "c.csv", tmp_path / "c.html"], resamples=20)
    lines = [line.split(",") for line in (tmp_path / "c.csv").read_text().splitlines()]
    assert [line[3] for line in lines if line[0] == "run"] == ["mean_teacher", "unbiased_teacher"]
    assert "2 runs in 2 rows" in (tmp_path / "c.html").read_text()


# ---- what a run began with -----------------------------------------------------------------------------------------


def begun(folder: Path, start: Path, fold: int, key: str = "detector.weights") -> Path:
    """Write a run that began with the model of another one, or was taught by it."""
    (start / "best.safetensors").touch()
    section, _, last = key.rpartition(".")
    weights = {last: str(start / "best.safetensors")}
    teacher = section == "method.teacher"
    return fake_run(folder, fold=fold, changes={section: weights} if teacher else {key: weights[last]})


@pytest.mark.parametrize("key", ["detector.weights", "method.teacher.weights"])
def test_folds_that_have_a_model_of_their_own_are_one_row(tmp_path: Path, key: str) -> None:
    starts = [fake_run(tmp_path / f"start{fold}", "supervised", fold) for fold in (1, 2)]
    (row,) = rows_of([read_run(begun(tmp_path / f"m{fold}", starts[fold - 1], fold, key)) for fold in (1, 2)])
    assert [run.fold for run in row.runs] == ["1", "2"]


@pytest.mark.parametrize(
    "other",
    [
        {"method": "mean_teacher"},
        {"changes": {"train.lr": 0.5}},
        {"split": {"hash": "7" * 64}},  # it has seen other labels
    ],
)
def test_another_beginning_is_another_row(tmp_path: Path, other: dict) -> None:
    starts = [fake_run(tmp_path / "s1", "supervised"), fake_run(tmp_path / "s2", **{"method": "supervised"} | other)]
    rows = rows_of([read_run(begun(tmp_path / f"n{i}", start, 1)) for i, start in enumerate(starts)])
    assert len(rows) == 2


def test_a_beginning_that_is_gone_is_known_by_its_file(tmp_path: Path) -> None:
    run = begun(tmp_path / "m", fake_run(tmp_path / "s", "supervised"), 1)
    shutil.rmtree(tmp_path / "s")
    assert read_run(run).setting["detector.weights"] == str(tmp_path / "s" / "best.safetensors")


def test_rows_are_not_told_apart_by_the_hash_of_weights() -> None:
    """Weights of a run are known by a hash of its setting, which tells a reader nothing."""
    one = {"detector.weights": "best.safetensors of supervised 832271ef", "detector.octaves": 3, "train.lr": 0.1}
    other = one | {"detector.weights": "best.safetensors of supervised b8ce086f", "detector.octaves": 1}
    assert settings._differences([one, other]) == ["octaves=3", "octaves=1"]
    alike = one | {"detector.weights": other["detector.weights"]}
    assert settings._differences([one, alike]) == []
    files = [one | {"detector.weights": name} for name in ("mine.safetensors", "imagenet")]
    assert settings._differences(files) == ["weights=mine.safetensors", "weights=imagenet"]
