"""Model cards: facts of the weights and of their run, nothing else, and no Markdown of strangers."""

import html
import json
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

from ssod.evaluation import matching
from ssod.inference.export_parity import Parity
from ssod.inference.model import load
from ssod.inference.model_card import MARK, card_file, check_card_file, escaped, model_card
from ssod.inference.run_facts import RunFacts, run_facts
from ssod.utils.errors import Exit, SsodError
from tests.trained import model_file

STRANGE = (
    "<script>alert(1)</script>", "a|b", "[x](http://bad.example)", "# head\n\n# again", "`code`", "**b** _i_ ~~s~~",
    "![i](x.png)", "&lt;b&gt;", "\x1b[31mred", "1. one", "- item", "$x$", "\\|", "<!-- c -->", "https://bad.example",
)  # fmt: skip
FOUND = Parity(images=14, empty=7, boxes=120, box=0.0012, score=3e-6)


def _render(page: str) -> str:
    return MarkdownIt("commonmark").enable("table").render(page)


def _run(folder: Path, **card: object) -> Path:
    """Write a run folder with the files that a card reads."""
    metrics = {"AP": 0.4567, "AP50": 0.7, "APs": None, "AP/cat": 0.25, "AP/dog": 0.5}
    told = {"method": "mean_teacher", "step": 40, "version": "0.1.0", "split_hash": "f00", "metrics": metrics, **card}
    file = model_file(folder / "best.safetensors", "fcos", **told)
    split = {"hash": "f00", "labeled": 29, "unlabeled": 263, "percent": 10.0, "fold": 1, "boxes": {"cat": 31, "dog": 2}}
    (folder / "split.json").write_text(json.dumps(split), "utf-8")
    config = "data:\n  root: /home/ann/secret\n  labeled: {format: voc, root: /home/ann/cells, split: trainval}\n"
    val = "  val: {format: coco, ann: lists/val_2.json, images: photos}\n"
    (folder / "config.yaml").write_text(config + val, "utf-8")
    return file


def _page(file: Path, found: Parity | None = FOUND) -> str:
    model = load(file)
    return model_card(model, file.with_name("best.onnx"), "onnx", found, run_facts(file, model.card))


def test_a_card_says_what_run_and_weights_say(tmp_path: Path) -> None:
    file = _run(tmp_path)
    one = {"image": np.zeros(1, int), "label": np.zeros(1, int), "score": np.ones(1), "iou": np.ones(1)}
    flags = {name: np.ones((1, 10), bool) for name in ("right", "counted")}
    wanted = np.array([[2, 0, 1], [4, 0, 0]])
    (tmp_path / "eval").mkdir()
    matches = matching.Matches(["a", "b"], ("cat", "dog", "bird"), **one, **flags, wanted=wanted, about={})
    matching.save(tmp_path / "eval" / "step_40.npz", matches)
    page = _page(file)
    assert page.startswith(f"{MARK}\n# best\\.onnx\n")
    for words in (
        "An object detector: fcos, backbone tiny, trained by the method mean\\_teacher for 40 steps.",
        "3 classes: cat, dog, bird.",
        "- labelled images: 29 with 33 boxes (10 % of the labels, fold 1)",
        "- images without labels: 263\n",
        "- labeled: voc cells trainval",
        "on val: coco val\\_2\\.json, 2 images with 7 boxes.",
        "| AP | 45.7 |",
        "| APs | - |",
        "| dog | 50.0 |",
        "100, 4 | float32",
        "session = onnxruntime.InferenceSession('best.onnx')",
        "14 images \\(7 without detections\\), 120 boxes; largest difference 0\\.0012 px",
        "To be filled in",
        "Scores of 0.2 and less are left out",
        "- trained with ssod 0\\.1\\.0",
    ):
        assert words in page, words
    assert "secret" not in page
    assert "/home" not in page


def test_without_a_run_the_card_says_only_what_is_known(tmp_path: Path) -> None:
    page = _page(model_file(tmp_path / "best.safetensors", "fcos"), None)
    assert "Not known: the weights were exported without their run folder." in page
    assert "The weights carry no figures." in page
    assert "The graph was not compared with torch." in page
    assert "method" not in page
    assert "steps" not in page


def test_a_folder_of_another_run_says_nothing_of_these_weights(tmp_path: Path) -> None:
    page = _page(_run(tmp_path, split_hash="beef"))
    assert "Not known" in page
    assert "labelled images" not in page
    assert "val images that are not known" in page


def test_a_damaged_file_is_told_and_leaves_the_rest(tmp_path: Path) -> None:
    file = _run(tmp_path)
    (tmp_path / "config.yaml").write_text("data: [", "utf-8")
    page = _page(file)
    assert "config\\.yaml cannot be read" in page
    assert "labelled images: 29" in page
    (tmp_path / "split.json").write_text("[1]", "utf-8")
    assert "Not known" in _page(file)


@pytest.mark.parametrize("name", STRANGE)
def test_text_of_strangers_is_shown_letter_by_letter(tmp_path: Path, name: str) -> None:
    names = [name, "dog", "bird"]
    metrics = {"AP": 0.5, f"AP/{name}": 0.25}
    card = {"classes": {"names": names, "ids": [1, 2, 3]}, "metrics": metrics, "method": name, "version": name}
    file = model_file(tmp_path / "best.safetensors", "fcos", **card)
    model = load(file)
    shown = _render(
        model_card(model, tmp_path / "x.onnx", "onnx", FOUND, RunFacts(sources={"val": name}, notes=[name]))
    )
    plain = _render(escaped("dog"))
    assert plain == "<p>dog</p>\n"
    text = html.escape(" ".join(name.split()).replace("\x1b", "\\x1b"), quote=False).replace('"', "&quot;")
    assert f"3 classes: {text}, dog, bird." in shown
    assert f"<td>{text}</td>" in shown
    assert f"by the method {text}" in shown
    for tag in ("<script", "<a ", "<img", "<strong", "<del", "<h1>again", "<li>item", "<b>"):
        assert tag not in shown
    assert shown.count("<h1>") == 1


def test_a_page_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    assert card_file(tmp_path / "best.onnx") == tmp_path / "best.md"
    assert card_file(tmp_path / "best.fp16.onnx") == tmp_path / "best.fp16.md"
    assert card_file(tmp_path / "best.pt2") == tmp_path / "best.pt2.md"
    check_card_file(tmp_path / "best.md")
    (tmp_path / "best.md").write_text(f"{MARK}\n# old", "utf-8")
    check_card_file(tmp_path / "best.md")
    (tmp_path / "best.md").write_text("my notes", "utf-8")
    with pytest.raises(SsodError, match="is no model card of ours; move it") as caught:
        check_card_file(tmp_path / "best.md")
    assert caught.value.code == Exit.USAGE
