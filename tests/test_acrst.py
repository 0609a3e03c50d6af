"""ACRST: our reading's numbers through our functions; crops, the bank, the classifier, and what a step does with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from ssod.pseudo_labels.image_veto import confirmed
from ssod.pseudo_labels.pseudo_recall import PseudoRecall, expected_density, pseudo_recall, sampling_probability
from ssod.structures import LabelStatistics, Targets, View
from ssod.transforms.paste import Crops, owners, paste, places, visible
from tests.paths import golden_path

FILE = np.load(golden_path("acrst_formulas.npz"), allow_pickle=False)
CASES = json.loads(str(FILE["cases_json"]))


def of_kind(kind: str) -> list:
    return [pytest.param(case, id=case["name"]) for case in CASES if case["kind"] == kind]


def array(case: dict, name: str) -> Tensor:
    found = torch.from_numpy(FILE[f"{case['id']}.{name}"])
    return found.float() if found.is_floating_point() else found


# ---- formulas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", of_kind("class_probability"))
def test_class_probability_golden(case: dict) -> None:
    """A class without a label counts as one box, none lacking is uniform."""
    expected = expected_density(array(case, "labelled_counts"), case["labelled_images"])
    recall = pseudo_recall(expected, array(case, "pseudo_counts"), torch.tensor(float(case["unlabelled_images"])))
    torch.testing.assert_close(recall, array(case, "pseudo_recall"))
    torch.testing.assert_close(sampling_probability(recall), array(case, "probability"))


def test_before_the_first_image_every_class_is_as_likely_and_a_recall_of_1_is_uniform() -> None:
    recall = PseudoRecall(4, 0.9)
    assert torch.equal(recall.probability(), torch.full((4,), 0.25))
    assert torch.equal(sampling_probability(torch.ones(4)), torch.full((4,), 0.25))


def test_counts_fade_and_are_measured_against_the_labels() -> None:
    recall = PseudoRecall(2, 0.5)
    recall.see(LabelStatistics(10, torch.tensor([20, 0]), torch.tensor([5, 0])))
    assert torch.equal(recall.expected, torch.tensor([2.0, 0.1]))
    recall.count(torch.tensor([0, 0, 1]), 4)
    recall.count(torch.tensor([0]), 4)
    assert torch.equal(recall.found, torch.tensor([2.0, 0.5]))
    assert recall.images == 6
    torch.testing.assert_close(recall.recall(), torch.tensor([2 / 6 / 2, 0.5 / 6 / 0.1]))
    assert set(recall.state_dict()) == {"found", "images"}


@pytest.mark.parametrize("case", of_kind("two_stage_filter"))
def test_two_stage_filter_golden(case: dict) -> None:
    """Both limits are met by what equals them."""
    inputs = (array(case, name) for name in ("scores", "labels", "image", "image_class_probability"))
    first, kept = confirmed(*inputs, case["detection_threshold"], case["image_threshold"])
    assert torch.equal(first, array(case, "stage1_mask"))
    assert torch.equal(kept, array(case, "kept_mask"))


def one_image(size: Tensor, side: tuple[int, int]) -> View:
    return View(torch.zeros(1, 3, *side, dtype=torch.uint8), size[None], torch.eye(3)[None], torch.zeros(1).long(), [0])


@pytest.mark.parametrize("case", of_kind("paste"))
def test_paste_golden(case: dict) -> None:
    size, corner, sides = array(case, "image_hw"), array(case, "crop_xy"), array(case, "crop_wh")
    rects = torch.cat([corner, corner + sides], 1).float()[None]
    canvas = (int(size[0]) + 5, int(size[1]) + 3)
    if len(sides):
        owner = owners(rects[0], size, canvas)
        assert torch.equal(owner[: size[0], : size[1]], array(case, "pixel_owner"))
        assert (owner[size[0] :] == -1).all() and (owner[:, size[1] :] == -1).all()  # nothing lies in the padding
    boxes, labels, source = (array(case, name) for name in ("boxes", "labels", "source"))
    crops = Crops(torch.zeros(1, len(sides), 3, 4, 4, dtype=torch.uint8), sides[None], array(case, "crop_labels")[None])
    if len(sides):
        torch.testing.assert_close(visible(boxes, rects.expand(len(boxes), -1, -1)), array(case, "visible_fraction"))
    given = Targets(boxes, labels, box_weight=(source == 0).float())  # of a pseudo-box, places are not learnt
    _, (found,) = paste(one_image(size, canvas), [given], crops, rects, case["min_visible"])
    assert torch.equal(found.boxes, array(case, "boxes_out"))
    assert torch.equal(found.labels, array(case, "labels_out"))
    assert torch.equal(found.box_trust(), array(case, "box_loss_weight"))
