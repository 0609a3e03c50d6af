"""Who is ranked with whom, what the tables say, what is refused and in which words."""

from __future__ import annotations

import csv
import functools
import io
import json
from pathlib import Path
from statistics import mean, stdev

import pytest
import yaml

from ssod.commands.compare import compare, find
from ssod.config import load_recipe
from ssod.experiments import standings as found_standings
from ssod.experiments import tables
from ssod.experiments.cost import at, curve, equal, hours, seen
from ssod.experiments.groups import Group, groups_of
from ssod.experiments.published import protocol_of, published, references
from ssod.experiments.runs import read_run
from ssod.experiments.settings import rows_of
from ssod.experiments.standings import standings
from ssod.utils.errors import Exit, SsodError
from tests.experiments.fake import fake_run


def groups(*folders: Path) -> tuple[list[Group], list[str]]:
    return groups_of(rows_of([read_run(folder) for folder in folders]), resamples=100)


@pytest.fixture
def four(tmp_path: Path) -> list[Path]:
    return [
        fake_run(tmp_path / f"{method}-{fold}", method, fold, ap=ap + 0.02 * fold)
        for method, ap in (("supervised", 0.4), ("mean_teacher", 0.6))
        for fold in (1, 2)
    ]


def test_rows_are_repetitions_and_the_best_comes_first(four: list[Path]) -> None:
    (group,), refusals = groups(*four)
    assert refusals == []
    assert [row.name for row in group.ranked] == ["mean_teacher", "supervised"]
    best = group.ranked[0]
    values = [run.ap() for run in best.runs]
    assert best.mean() == pytest.approx(mean(values))
    assert best.sd() == pytest.approx(stdev(values))
    assert group.baselines == {"mean_teacher": "supervised"}
    gain = group.gains["mean_teacher"]
    assert gain.value == pytest.approx(best.mean() - group.ranked[1].mean())
    assert list(gain.units) == ["fold 1", "fold 2"]
    assert gain.images[0] < gain.value < gain.images[1]


def test_rows_of_equal_ap_share_a_rank_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, one = [], found_standings._standing
    monkeypatch.setattr(found_standings, "_standing", lambda *args: counted.append(args) or one(*args))
    ap = {"supervised": 0.3, "unbiased_teacher": 0.5, "mean_teacher": 0.5, "humble_teacher": 0.7}
    runs = [fake_run(tmp_path / name, name, ap=value) for name, value in ap.items()]
    wanted = [("humble_teacher", 1), ("mean_teacher", 2), ("unbiased_teacher", 2), ("supervised", 4)]
    for order in (runs, runs[::-1]):
        counted.clear()
        found = compare(order, out=[tmp_path / "c.csv", tmp_path / "c.html"], resamples=10)
        assert len(counted) == 4, "each row's standing is found once"
        assert [(row.name, row.rank) for row in found.standings] == wanted
        assert [(row[1], int(row[0])) for row in found.sheets[0].rows] == wanted
        lines = csv.DictReader(io.StringIO((tmp_path / "c.csv").read_text()))
        assert [(line["row"], int(line["rank"])) for line in lines if line["kind"] == "row"] == wanted


def test_seeds_weigh_as_their_fold(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / "a", fold=1, ap=0.2), fake_run(tmp_path / "b", fold=2, seed=0, ap=0.6)]
    runs.append(fake_run(tmp_path / "c", fold=2, seed=1, ap=0.6))
    (group,), _ = groups(*runs)
    a, b, c = (read_run(run).ap() for run in runs)
    assert group.ranked[0].mean() == pytest.approx((a + (b + c) / 2) / 2)


def test_one_fold_with_seeds_is_paired_by_seed(tmp_path: Path) -> None:
    runs = [
        fake_run(tmp_path / f"{method}{seed}", method, 1, seed, ap=ap)
        for method, ap in (("supervised", 0.4), ("mean_teacher", 0.6))
        for seed in (0, 1, 2)
    ]
    (group,), _ = groups(*runs)
    gain = group.gains["mean_teacher"]
    assert list(gain.units) == ["seed 0", "seed 1", "seed 2"]
    assert gain.scope == "3 seeds of one fold"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"fold": 2}, "labelled split"),
        ({"about": {"score": 0.001}}, "score threshold 0.001 and 0.05"),
        ({"about": {"val": "w" * 64}}, "val set wwwwwwwwwwww and vvvvvvvvvvvv"),
        ({"changes": {"eval.metric": "voc"}}, "metric voc and coco"),
        ({"saved": False, "split": {"boxes": {"ball": 1}}}, "classes ball and box"),
    ],
)
def test_unlike_runs_are_refused_in_one_line(tmp_path: Path, other: dict, words: str) -> None:
    found, refusals = groups(fake_run(tmp_path / "a", "supervised"), fake_run(tmp_path / "b", **other))
    assert len(found) == 2
    assert all(len(group.ranked) == 1 for group in found)
    (line,) = refusals
    assert line.startswith("not ranked together: ")
    assert words in line
    assert "\n" not in line
    assert not any(group.gains for group in found)


def test_two_runs_with_different_splits_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    runs = [fake_run(tmp_path / "a", "supervised", 1), fake_run(tmp_path / "b", "mean_teacher", 2)]
    compare(runs, resamples=20)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("not ranked together: ") for line in lines) == 1
    assert not any(line.strip().startswith("1 ") for line in lines)  # nobody has a rank


def test_a_row_that_lacks_folds_is_ranked_on_those_that_all_have(four: list[Path], tmp_path: Path) -> None:
    (two, one), refusals = groups(*four, fake_run(tmp_path / "x", "unbiased_teacher", 1, ap=0.9))
    assert refusals == []
    assert [(row.name, len(row.runs)) for row in two.ranked] == [("mean_teacher", 2), ("supervised", 2)]
    assert two.notes == ["unbiased_teacher has 1 of the group's 2 splits: it is ranked on 1, in another group"]
    assert [row.name for row in one.ranked] == ["unbiased_teacher", "mean_teacher", "supervised"]
    assert [[run.fold for run in row.runs] for row in one.ranked] == [["1"]] * 3
    assert list(one.gains["unbiased_teacher"].units) == ["fold 1"]
    assert not two.others
    assert not one.others


def test_rows_with_no_split_in_common_have_no_rank(four: list[Path], tmp_path: Path) -> None:
    extra = [fake_run(tmp_path / "x", "unbiased_teacher", 1), fake_run(tmp_path / "y", "humble_teacher", 2)]
    (group,), _ = groups(*four, *extra)
    assert [row.name for row in group.ranked] == ["mean_teacher", "supervised"]
    reason = "has 1 of the group's 2 splits"
    assert {(row.name, why) for row, why in group.others} == {("unbiased_teacher", reason), ("humble_teacher", reason)}
    assert list(group.gains["unbiased_teacher"].units) == ["fold 1"]  # over the fold that both have
    assert {row[0] for row in tables.at_equal_cost(group).rows} == {"mean_teacher", "supervised"}


def test_a_row_with_more_folds_is_ranked_on_those_of_the_others(four: list[Path], tmp_path: Path) -> None:
    runs = [*four, fake_run(tmp_path / "x", "mean_teacher", 3, ap=0.1)]
    (group,), refusals = groups(*runs)
    assert refusals == []
    _, whole = rows_of([read_run(run) for run in runs])
    assert len(whole.runs) == 3
    assert [(row.name, len(row.runs)) for row in group.ranked] == [("mean_teacher", 2), ("supervised", 2)]
    assert group.notes == [f"mean_teacher: 1 split that other rows lack left out; AP over all 3: {whole.spread()}"]


def test_rows_that_share_more_folds_are_ranked_on_these_too(four: list[Path], tmp_path: Path) -> None:
    """Several rows with a single fold take nothing from what two others have."""
    names = ("instant_teaching", "humble_teacher", "unbiased_teacher", "instant_teaching_rectify")
    (one, two), refusals = groups(*four, *(fake_run(tmp_path / name, name, 1) for name in names))
    assert refusals == []
    assert [len(group.ranked) for group in (one, two)] == [6, 2]
    assert all(len(row.hashes) == 1 for row in one.ranked)
    assert list(two.gains["mean_teacher"].units) == ["fold 1", "fold 2"]


def test_what_a_supervised_run_never_reads_tells_no_rows_apart(tmp_path: Path) -> None:
    views = {"views.unlabeled": None, "train.batch.unlabeled": 0}
    runs = [fake_run(tmp_path / "a", "supervised", 1), fake_run(tmp_path / "b", "supervised", 2, changes=views)]
    (row,) = rows_of([read_run(run) for run in runs])
    assert len(row.runs) == 2


@pytest.mark.parametrize(("code", "words"), [(None, "running or killed"), (75, "code 75"), (5, "code 5")])
def test_what_did_not_finish_is_not_counted(four: list[Path], tmp_path: Path, code: int | None, words: str) -> None:
    (group,), _ = groups(*four, fake_run(tmp_path / "x", seed=7, ap=0.99, code=code))
    assert max(len(row.runs) for row in group.rows) == 2
    sheet = tables.ranking(group, standings([group]))
    assert any(words in note for note in sheet.notes)
    _, refusals = groups(four[0], fake_run(tmp_path / "y", "unbiased_teacher", code=code))
    assert words in refusals[0]


def test_rows_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / f"{score}", changes={"method.score": score}) for score in (0.3, 0.5)]
    runs.append(fake_run(tmp_path / "s", "supervised"))
    runs.append(fake_run(tmp_path / "u", seed=3, changes={"method.score": 0.5, "train.log_every": 1}))
    rows = rows_of([read_run(run) for run in runs])
    assert {row.name: len(row.runs) for row in rows} == {
        "mean_teacher (score=0.3)": 1,
        "mean_teacher (score=0.5)": 2,
        "supervised": 1,
    }


def test_a_baseline_that_differs_is_reported(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / "a", "supervised", changes={"train.lr": 0.5}), fake_run(tmp_path / "b")]
    (group,), _ = groups(*runs)
    assert group.notes == ["mean_teacher and its baseline differ in train.lr"]
    better = fake_run(tmp_path / "c", "supervised", ap=0.3)
    (group,), _ = groups(*runs, better)
    assert group.notes == []
    assert "lr=0.001" in group.baselines["mean_teacher"]


def test_without_saved_matches_there_is_no_interval(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / "a", "supervised", saved=False), fake_run(tmp_path / "b", ap=0.8, saved=False)]
    (group,), _ = groups(*runs)
    assert group.gains == {}
    assert "no interval" in tables.gain_text(group, group.ranked[0])


# ---- cost ----------------------------------------------------------------------------------------------------------


def test_images_and_hours_that_were_spent(tmp_path: Path) -> None:
    run, baseline = read_run(fake_run(tmp_path / "a")), read_run(fake_run(tmp_path / "b", "supervised"))
    assert seen(run, 24) == (48, 36)  # burn-in of 6 steps
    assert seen(run, 4) == (8, 0)
    assert seen(baseline, 24) == (48, 0)
    assert hours(run, 24) == pytest.approx(24 * 0.5 / 3600)
    assert hours(run, 6) == pytest.approx(6 * 0.5 / 3600)


def test_equal_cost_by_hand(tmp_path: Path) -> None:
    run, baseline = read_run(fake_run(tmp_path / "a", ap=0.8)), read_run(fake_run(tmp_path / "b", "supervised"))
    budget, values = equal({"m": [run], "s": [baseline]}, "images")
    assert budget == 48  # what the baseline spent; the method had spent 24 + 12 = 36 at step 12 and 84 at step 24
    first, last = curve(run)
    assert values["m"] == pytest.approx(first.ap + (48 - 36) / (84 - 36) * (last.ap - first.ap))
    assert values["s"] == pytest.approx(baseline.ap())
    assert at(curve(run), 20, "images") is None  # before the first evaluation nothing is known


# ---- forms ---------------------------------------------------------------------------------------------------------


def test_every_form_has_the_same_numbers(four: list[Path], tmp_path: Path) -> None:
    out = [tmp_path / "out" / f"c.{end}" for end in ("csv", "md", "tex")]
    found = compare(four, out=out, resamples=50)
    texts = [path.read_text() for path in out]
    group = found.groups[0]
    number = f"{100 * group.ranked[0].mean():.1f}"
    assert all(number in text and "mean" in text for text in texts[1:])
    assert texts[1].count("| mean_teacher |") == 2
    assert "mean\\_teacher" in texts[2]
    assert texts[2].count("\\begin{tabular}") == texts[2].count("\\end{tabular}") == len(found.sheets)


def test_the_csv_has_every_number_by_itself(four: list[Path], tmp_path: Path) -> None:
    other = fake_run(tmp_path / "other", "unbiased_teacher", 9, code=None)
    lost = fake_run(tmp_path / "lost", "supervised", 8)
    found = compare([*four, other, lost], out=[tmp_path / "c.csv"], resamples=50)
    lines = list(csv.DictReader(io.StringIO((tmp_path / "c.csv").read_text())))
    group = found.groups[0]
    best, gain = group.ranked[0], group.gains["mean_teacher"]
    first = lines[0]
    assert (first["kind"], first["board"], first["rank"], first["row"]) == ("row", "1", "1", "mean_teacher")
    assert float(first["AP"]) == pytest.approx(100 * best.mean())
    assert float(first["AP_sd"]) == pytest.approx(100 * best.sd())
    assert float(first["gain"]) == pytest.approx(100 * gain.value)
    assert [float(first[f"gain_{end}"]) / 100 for end in ("low", "high")] == pytest.approx(gain.images)
    assert [float(first[f"gain_folds_{end}"]) / 100 for end in ("low", "high")] == pytest.approx(gain.whole)
    budget, values = equal({row.name: row.runs for row in group.rows}, "images")
    assert float(first["budget_images"]) == budget
    assert float(first["AP_at_images"]) == pytest.approx(100 * values["mean_teacher"])
    runs = {line["path"]: line for line in lines if line["kind"] == "run"}
    assert set(runs) == {str(path) for path in (*four, other, lost)}  # also those that no group counts
    assert runs[str(other)]["state"].startswith("step 24 of 24")
    assert runs[str(other)]["AP"] == ""
    assert [line["text"] for line in lines if line["kind"] == "note"] == found.groups[0].notes
    assert float(runs[str(four[0])]["AP"]) == pytest.approx(100 * read_run(four[0]).ap())
    assert [line["text"] for line in lines if line["kind"] == "refused"] == found.refusals


def test_latex_escapes() -> None:
    sheet = tables.Sheet("t", ["a"], [["50 % & a_b ± -1.0 [-2.0, 3]"]])
    assert r"50 \% \& a\_b $\pm$ $-$1.0 [$-$2.0, 3]" in tables.latex([sheet])


def test_folders_of_runs_are_found(four: list[Path], tmp_path: Path) -> None:
    assert find([tmp_path]) == sorted(four)
    assert find([four[1], tmp_path]) == [four[1], *sorted({four[0], *four[2:]})]
    with pytest.raises(SsodError, match="no run folder was named"):
        find([])


def test_bad_arguments_are_reported(tmp_path: Path, four: list[Path]) -> None:
    with pytest.raises(SsodError, match="no known ending"):
        compare(four, out=[tmp_path / "c.pdf"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SsodError, match=r"is no run folder: no config\.yaml") as error:
        compare([tmp_path / "empty"])
    assert error.value.code == Exit.DATA
    (four[0] / "metrics.jsonl").write_text('{"kind": "train", "step"\n{"kind": "eval", "step": 3}\n')
    with pytest.raises(SsodError, match="line 1: damaged"):
        compare(four)


def test_a_line_that_is_being_written_is_left_out(four: list[Path]) -> None:
    with open(four[0] / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "st')
    assert read_run(four[0]).finished


# ---- published figures ---------------------------------------------------------------------------------------------


def test_published_numbers_have_sources_and_sane_values() -> None:
    rows = published()
    assert len(rows) > 200
    assert all(p.source and p.kind and 5 < p.value < 90 and p.metric in ("AP", "AP50") for p in rows)
    assert len({(p.method, p.detector, p.protocol, p.metric) for p in rows}) == len(rows)
    best = {(p.method, p.protocol): p.value for p in rows if p.metric == "AP"}
    assert best["consistent_teacher", "COCO 10 %"] == 40.0
    assert best["soft_teacher", "COCO 1 %"] == 20.46
    assert best["unbiased_teacher", "COCO additional"] == 41.30
    methods = {p.method.split(" ")[0] for p in rows}
    assert {"supervised", "csd", "stac", "instant_teaching", "humble_teacher", "unbiased_teacher", "acrst", "pseco",
            "unbiased_teacher_v2", "soft_teacher", "label_match", "dsl", "dense_teacher", "s4od", "mean_teacher",
            "consistent_teacher", "efficient_teacher"} <= methods  # fmt: skip


def coco_like(folder: Path, percent: float | None, method: str = "mean_teacher", **changes: object) -> Path:
    classes = {**{f"c{i}": 1 for i in range(78)}, "person": 1, "hair drier": 1}
    source = {"format": "coco", "ann": "coco/annotations/instances_val2017.json", "images": "coco/val2017"}
    split = {"percent": percent, "boxes": classes}
    return fake_run(folder, method, saved=False, split=split, changes={"data.val": source, **changes})


def test_references_come_for_the_same_protocol_only(tmp_path: Path) -> None:
    ten, three = (read_run(coco_like(tmp_path / str(p), p)) for p in (10.0, 3.0))
    assert protocol_of(ten) == "COCO 10 %"
    assert protocol_of(three) is None
    assert {p.protocol for p in references([ten])} == {"COCO 10 %"}
    assert references([ten, three]) == []
    assert references([read_run(fake_run(tmp_path / "shapes"))]) == []
    (group,), _ = groups_of(rows_of([ten]), resamples=10)
    sheet = tables.published_sheet(group)
    assert any("(ours)" in row[0] for row in sheet.rows)
    assert any(row[0] == "consistent_teacher" and row[3] == "40.00" for row in sheet.rows)


def voc_like(folder: Path, method: str, **changes: object) -> Path:
    names = ["aeroplane", "tvmonitor", *(f"c{i}" for i in range(18))]
    source = {"format": "voc", "root": "voc/VOCdevkit/VOC2007"}
    parts = {"data.labeled": {**source, "split": "trainval"}, "data.val": {**source, "split": "test"}}
    split = {"percent": None, "fold": None, "hash": "a" * 64, "boxes": dict.fromkeys(names, 1)}
    return fake_run(folder, method, saved=False, split=split, changes={"data.split": None, **parts, **changes})


def test_a_supervised_baseline_follows_the_protocol_of_its_labels(tmp_path: Path) -> None:
    """Its config names no unlabelled images (the recipe of `supervised` on `voc`); the references stay."""
    extra = {"format": "voc", "root": "voc/VOCdevkit/VOC2012", "split": "trainval"}
    baseline = read_run(voc_like(tmp_path / "s", "supervised", **{"data.unlabeled": None}))
    run = read_run(voc_like(tmp_path / "m", "mean_teacher", **{"data.unlabeled": extra}))
    alone = read_run(voc_like(tmp_path / "a", "mean_teacher", **{"data.unlabeled": None}))
    assert [protocol_of(r) for r in (baseline, run, alone)] == ["VOC 07+12", "VOC 07+12", None]
    assert references([baseline, run])
    recipe = load_recipe(method="mean_teacher", detector="fcos_r50_fpn", data="voc_coco20")
    more = recipe.dump()["data"]["unlabeled"]
    both = read_run(voc_like(tmp_path / "c", "mean_teacher", **{"data.unlabeled": more}))
    assert protocol_of(both) == "VOC 07+12+COCO20"
    assert {row.protocol for row in references([baseline, both])} == {"VOC 07+12+COCO20"}
    assert references([run, both]) == []
    whole = {"format": "coco", "ann": "coco/annotations/instances_train2017.json", "images": "coco/train2017"}
    coco = {"data.split": None, "data.labeled": whole, "data.unlabeled": None}
    kinds = [read_run(coco_like(tmp_path / m, None, m, **coco)) for m in ("supervised", "mean_teacher")]
    assert [protocol_of(r) for r in kinds] == ["COCO additional", None]


def test_exit_json_and_config_of_a_run_are_read(four: list[Path]) -> None:
    run = read_run(four[3])
    assert (run.method, run.fold, run.seed, run.percent) == ("mean_teacher", "2", 0, 40.0)
    assert run.detector == "fcos-tiny"
    assert "data.split.fold" not in run.setting
    assert run.setting["views.val"] == []
    assert json.loads((four[3] / "exit.json").read_text())["code"] == 0


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("config.yaml", "method: {name: supervised}\n", "data.labeled: missing"),
        ("config.yaml", "[]\n", r"cannot be \[\]"),
        ("split.json", "{}", "hash: missing"),
        ("split.json", "[]", r"cannot be \[\]"),
        ("exit.json", "[]", r"cannot be \[\]"),
        ("exit.json", "", "damaged"),
        ("env.json", '{"gpus": 3}', "gpus: cannot be 3"),
        ("metrics.jsonl", '{"kind": "eval", "teacher/AP": 0.5}\n', "line 1: step: missing"),
        ("metrics.jsonl", '{"kind": "eval", "step": 3, "teacher/AP": "x"}\n', "line 1: teacher/AP: cannot be 'x'"),
        ("metrics.jsonl", '{"kind": "train", "step": 4}\n', "line 1: time/step: missing"),
        ("metrics.jsonl", "3\n", "line 1: cannot be 3"),
    ],
)
def test_a_folder_of_another_program_or_version_is_no_run(tmp_path: Path, file: str, text: str, words: str) -> None:
    run = fake_run(tmp_path / "run")
    (run / file).write_text(text)
    with pytest.raises(SsodError, match=words) as caught:
        read_run(run)
    assert caught.value.code == Exit.DATA
    assert str(run / file) in str(caught.value)


@pytest.mark.parametrize("key", ["eval", "data.labeled", "method.name", "train.batch"])
def test_a_config_without_what_a_comparison_reads_is_refused(tmp_path: Path, key: str) -> None:
    run = fake_run(tmp_path / "run")
    tree = yaml.safe_load((run / "config.yaml").read_text())
    *parents, last = key.split(".")
    del functools.reduce(dict.__getitem__, parents, tree)[last]
    (run / "config.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(SsodError, match=f"config.yaml: {key}.*: missing"):
        read_run(run)


@pytest.mark.parametrize("name", ["AP", "AP75"])
def test_a_run_without_ap_is_not_counted(four: list[Path], name: str) -> None:
    file = four[3] / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[-1][f"teacher/{name}"] = None
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = compare(four, out=[four[0] / "c.html"], resamples=10)
    assert [len(row.runs) for row in found.rows] == [2, 1]
    words = "finished without an AP at its last evaluation"
    assert any(words in note for group in found.groups for note in tables.ranking(group, standings([group])).notes)


def test_a_detector_without_a_decode_section_is_compared(tmp_path: Path) -> None:
    """detectron2's have their lowest score in a config of its own; what was measured with tells it."""
    other = {"changes": {"detector": {"name": "d2_retinanet", "config": "x.yaml"}}}
    runs = [fake_run(tmp_path / "a", "supervised", **other), fake_run(tmp_path / "b", ap=0.8, **other)]
    (group,), _ = groups(*runs)
    assert group.protocol["score threshold"] == "0.05"
    assert group.gains
    (group,), _ = groups(fake_run(tmp_path / "c", saved=False, **other))
    assert group.protocol["score threshold"] == "unknown"
