"""The golden cases of COCO's and of VOC's evaluator as truth and results."""

import json

from tests.paths import golden_path

COCO = json.loads(golden_path("coco_eval.json").read_text())
VOC = json.loads(golden_path("voc_eval.json").read_text())


def coco_case(case: dict) -> tuple[dict, list[dict]]:
    truth, rows = COCO["ground_truth"], COCO["detections"]
    name = case["name"]
    if name.startswith("score_above_"):
        rows = [r for r in rows if r[6] > float(name.rsplit("_", 1)[1])]
    if name == "scores_rounded_to_0.1":
        rows = [[*r[:6], round(r[6], 1)] for r in rows]
    if name == "ground_truth_as_detections":
        rows = [[a["image_id"], a["category_id"], *a["bbox"], 0.9] for a in truth["annotations"] if not a["iscrowd"]]
    if case["image_ids"] is not None:
        truth = {**truth, "images": [i for i in truth["images"] if i["id"] in case["image_ids"]]}
        rows = [r for r in rows if r[0] in case["image_ids"]]
        truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in case["image_ids"]]
    if case["category_ids"] is not None:
        truth = {**truth, "categories": [c for c in truth["categories"] if c["id"] in case["category_ids"]]}
    keys = ("image_id", "category_id")
    return truth, [{**dict(zip(keys, r)), "bbox": r[2:6], "score": r[6]} for r in rows]


def voc_case(case: dict) -> tuple[dict, list[dict]]:
    """The golden detections get 1 added and the truth is inclusive: in continuous coordinates, x = xmin - 1."""
    truth = {"images": [{"id": image} for image in VOC["ground_truth"]]}
    truth["categories"] = [{"id": k, "name": n} for k, n in enumerate(VOC["classes"])]
    truth["annotations"] = [
        {
            "image_id": image,
            "category_id": k,
            "bbox": [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1],
            "difficult": VOC["difficult_flags"][image][i] if case["use_difficult_flags"] else 0,
        }
        for image, rows in VOC["ground_truth"].items()
        for i, (k, x1, y1, x2, y2) in enumerate(rows)
    ]
    rows = VOC["detections"]
    if case["name"] == "no_platelet_detections":
        rows = [r for r in rows if r[1] != VOC["classes"].index("Platelets")]
    if case["name"] == "confident_only":
        rows = [r for r in rows if r[2] > 0.6]
    return truth, [
        {"image_id": i, "category_id": k, "score": s, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for i, k, s, x1, y1, x2, y2 in rows
    ]
