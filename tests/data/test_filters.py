"""Every filter of ``ssod/data`` is known here: what leaves something out names the finding that counts it.

Read from the code: each ``continue``, comprehension with an ``if``, slice with an end, index that is a comparison, and
call of ``filter`` and its like, by file and function. A new one fails until it is in the table, with the ids of its
findings (``LEFT_OUT`` has a case for each of its own; others have one in the corpora), or with the reason why nothing
of the data is lost by it.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from ssod.data.formats.leftout import LEFT_OUT

DATA = Path(__file__).resolve().parents[2] / "ssod/data"
NO_DATA = {"loading/workers.py", "loading/team.py", "synthetic.py"}  # processes, and pictures that are drawn
CALLS = {"filter", "filterfalse", "suppress", "islice", "compress", "takewhile", "dropwhile"}
ID = re.compile(r"[A-Z]\d\d")

TEXT = "cuts what a message shows"
SEARCH = "looks for one thing, and leaves the rest where it is"
ERROR = "what is left out is an error, which stops the run: "
# function -> in how many places it may leave something out, and what counts it or why nothing is lost.
KNOWN: dict[str, tuple[int, str]] = {
    "checks/pixels.py:census": (1, "an image that cannot be opened: whoever opens it for training says so, I02"),
    "checks/pixels.py:check_pixels": (1, "8-bit colour and grey, of which there is nothing to say"),
    "checks/foreign.py:features": (2, "an image that cannot be opened; and one number is made of all others"),
    "checks/foreign.py:numbers_of": (1, "pixels at the border of a thumbnail, which have no neighbour"),
    "checks/images.py:check_images": (2, "I01 I02 I03 I04"),
    "checks/leakage.py:tell_near": (1, TEXT),
    "checks/near_duplicates.py:_same_band": (2, SEARCH),
    "checks/near_duplicates.py:_search": (4, SEARCH),
    "checks/odd_boxes.py:two_classes": (3, SEARCH),
    "checks/samefile.py:_alike": (1, "names that must not be opened; whoever opens them says so"),
    "checks/samefile.py:_by_length": (1, "cuts the work into parts for threads"),
    "checks/samefile.py:common_content": (3, "limit: the caller's, of ssod.check alone; it says what it looks at"),
    "checks/samefile.py:common_places": (1, SEARCH),
    "checks/visible.py:Visible.check": (1, "L10 L11"),
    "checks/visible.py:_matrices": (1, "views that are hidden, as the config says"),
    "checks/visible.py:too_small": (2, "L10"),
    "cutting.py:cut": (1, "groups without a box of the class; each group is asked again in the end"),
    "cutting.py:cut.spare": (1, "classes that the group has not"),
    "datasets.py:check_pixels_of": (1, "a part that is not there has no pixels"),
    "datasets.py:_fingerprint": (1, "a part that is not there has nothing to digest"),
    "formats/areas.py:_polygon": (2, "corners and the ones after them"),
    "formats/boxrules.py:report_twins": (1, "L12"),
    "formats/boxrules.py:settle": (1, "boxes that a page shows; D27 counts all"),
    "formats/classlists.py:differences": (1, TEXT),
    "formats/classlists.py:in_order": (2, "L18"),
    "formats/classlists.py:read_categories": (3, "L17"),
    "formats/classlists.py:used_ids": (1, "what is no number is no class's id, which is an error, D19"),
    "formats/coco.py:_check_ids": (1, TEXT),
    "formats/cocoimages.py:_report_twice": (3, "D36"),
    "formats/cocoimages.py:read_image_table": (1, TEXT),
    "formats/cocoimages.py:repeated": (2, "the first 1000 of the ids that are an error, D14"),
    "formats/darknet.py:read_obj_data": (1, SEARCH),
    "formats/exports.py:_coco": (1, "a sample decides about a folder; reading the set looks at all of it"),
    "formats/exports.py:_files": (1, "hidden files are no labels; hidden images are counted as L01"),
    "formats/exports.py:_flat": (7, SEARCH),
    "formats/exports.py:_folders": (1, "hidden folders are no parts"),
    "formats/exports.py:_is_voc": (1, SEARCH),
    "formats/exports.py:_labelstudio": (1, "the server's prefix of one name"),
    "formats/exports.py:_of_split": (1, SEARCH),
    "formats/exports.py:found_in": (1, SEARCH),
    "formats/exports.py:read_set": (2, TEXT),
    "formats/exports.py:what_is_in": (1, TEXT),
    "formats/federated.py:_lists": (1, ERROR + "D44"),
    "formats/federated.py:read_federated": (3, "as incomplete.py:read_incomplete"),
    "formats/findings.py:Finding.line": (1, TEXT),
    "formats/findings.py:Findings.errors": (1, SEARCH),
    "formats/findings.py:Findings.kinds": (4, "a kind that was said; each is said once, with its count"),
    "formats/findings.py:Findings.lines": (1, "kinds without more findings than are kept"),
    "formats/findings.py:Findings.rows": (1, "all are counted in totals, which lines and kinds say"),
    "formats/findings.py:short": (2, TEXT),
    "formats/folder.py:_openable": (1, "S05 S07"),
    "formats/folder.py:_read_remote": (2, "parts of one address"),
    "formats/folder.py:before_wildcard": (2, "parts of one path"),
    "formats/folder.py:list_lines": (2, "L04"),
    "formats/folder.py:read_folder": (1, SEARCH),
    "formats/frames.py:check_frames": (2, "looks at some images for the one that decides; all are kept"),
    "formats/image.py:to_rgb": (1, "letters of the name of a mode"),
    "formats/header.py:_png_orientation": (1, "bytes of one header"),
    "formats/header.py:fill_sizes": (1, ERROR + "I01"),
    "formats/header.py:turn_upright": (1, "an image that cannot be read: check_images, and whoever opens it, say so"),
    "formats/image_folder.py:_fit": (1, SEARCH),
    "formats/image_folder.py:_sample": (1, "a sample decides about a folder; reading the set looks at all of it"),
    "formats/image_folder.py:likeliest": (1, SEARCH),
    "formats/incomplete.py:_fix": (1, TEXT),
    "formats/incomplete.py:mark": (1, ERROR + "D44"),
    "formats/incomplete.py:read_incomplete": (1, ERROR + "D44; of a class that is left out, L18, nothing is learnt"),
    "formats/incomplete.py:warn_of_lacking": (2, "D45"),
    "formats/incomplete.py:with_classes": (1, SEARCH),
    "formats/infer.py:_pick": (2, TEXT),
    "formats/infer.py:_voc_split": (1, "a list's hidden copy, ._train.txt, is no list; nor has it images"),
    "formats/infer.py:below_one_root": (1, "keys that are no paths"),
    "formats/jsonfile.py:_not_json": (1, TEXT),
    "formats/jsonfile.py:read_text": (1, "bytes of one mark, D05"),
    "formats/labelme.py:_files": (1, "L20"),
    "formats/labelme.py:_image": (2, "the ending of one name"),
    "formats/labelme.py:_images": (1, "images that the files before have named"),
    "formats/labelstudio.py:_results": (3, "L21, and tasks that nobody finished, which are unlabelled: L06"),
    "formats/labelstudio.py:_with_labels": (2, SEARCH),
    "formats/labelstudio.py:image_paths": (1, SEARCH),
    "formats/listing.py:files_below": (2, "hidden text files, of programs; whose images are counted as L01"),
    "formats/listing.py:glob_names": (5, "L01 L03"),
    "formats/listing.py:image_names": (2, "L01 L02 L03"),
    "formats/listing.py:images_among": (5, "L01 L03"),
    "formats/listing.py:warn_of_hidden": (1, "L01"),
    "formats/paths.py:absent": (1, SEARCH),
    "formats/paths.py:plain_name": (1, "dots and slashes of one path"),
    "formats/paths.py:unsafe_names": (1, "S05 S07"),
    "formats/presence.py:as_spelled": (1, "L16"),
    "formats/misspelt.py:near": (1, SEARCH),
    "formats/presence.py:check_files": (2, "I01"),
    "formats/remote.py:_asked": (1, "files that the pattern does not fit"),
    "formats/remote.py:_told": (1, SEARCH),
    "formats/remote.py:fetched": (1, "letters of a digest"),
    "formats/remote.py:listed": (2, "letters of a digest, and of a name"),
    "formats/remote.py:listed.ask": (2, "folders, and other addresses than those below this one"),
    "formats/named.py:assemble": (1, ERROR + "V06"),
    "formats/records.py:Labeled.subset": (2, "what its caller chose"),
    "formats/tails.py:tail": (2, "parts of one path"),
    "formats/tails.py:tails": (2, "L15 D36"),
    "formats/voc.py:_open": (1, TEXT),
    "formats/voc.py:_with_bare": (1, "images that have an annotation, which stand before"),
    "formats/joined.py:_base": (1, "the set that a message names"),
    "formats/joined.py:as_one": (1, "those with other boxes, of which D36 counts all"),
    "formats/voclayout.py:Layout.stems": (2, "files that are no annotations; images are counted by image_names"),
    "formats/voclayout.py:find_layout": (1, SEARCH),
    "formats/voc.py:_objects": (2, ERROR + "V04 V05 D22"),
    "formats/vocnames.py:Folder.spelled": (1, SEARCH),
    "formats/vocnames.py:_name": (1, "the second column of a list of one class"),
    "formats/vocnames.py:read_list": (1, "blank lines"),
    "formats/xmlfile.py:parse_xml": (1, TEXT),
    "formats/yolo.py:_line_problem": (1, ERROR + "D12 D26"),
    "formats/yolo.py:_refuse_twins": (1, ERROR + "D14"),
    "formats/yolofile.py:DataYaml.names_of": (1, SEARCH),
    "formats/yolofile.py:_base": (1, SEARCH),
    "formats/yolofile.py:_by_number": (1, TEXT),
    "formats/yolofile.py:class_names": (1, SEARCH),
    "formats/yololabels.py:_listed": (1, "files that are no images, whose names are compared with those of labels"),
    "formats/yololabels.py:_near": (2, TEXT),
    "formats/yololabels.py:_plain": (1, "letters of one name"),
    "formats/yololabels.py:_report_orphans": (7, "L05"),
    "formats/yolofile.py:which": (1, SEARCH),
    "formats/yololabels.py:_text_files": (3, "class lists, by name, and hidden files; all others are labels, or L05"),
    "formats/yololabels.py:home": (1, "parts of one path"),
    "formats/yoloparts.py:_folders": (1, "hidden folders are no parts"),
    "formats/yoloparts.py:_from_list": (2, "lines that begin otherwise are relative to another folder"),
    "formats/yoloparts.py:find_part": (2, "divides folders from lists; both are read"),
    "formats/yoloparts.py:named_parts": (3, SEARCH),
    "held_out.py:read_part": (1, "what the other part has; ssod check counts both"),
    "loading/loader.py:_Steps._unlabeled": (1, "hidden views, as the config says"),
    "loading/loader.py:eval_views": (1, "cuts the images into batches"),
    "loading/reader.py:Reader.or_next": (2, "counted in bad, which training prints one by one"),
    "loading/sampling.py:Sampling.share": (1, "this process's share; the others have the rest"),
    "loading/tiled.py:_joined": (1, "this process's share; the others have the rest"),
    "shots.py:select_shots": (1, SEARCH),
    "splits.py:WrittenSplit.__str__": (1, TEXT),
    "splits.py:_filled": (1, "a folder that is filled, or was never made, and so stays"),
    "splits.py:_write_split": (1, "annotations of the images of the other file"),
    "splits.py:describe": (1, SEARCH),
    "splits.py:read_index_file": (1, TEXT),
    "splits.py:select": (1, "L08"),
    "stored.py:_by_image": (1, "L09"),
    "stored.py:_of_annotations": (1, SEARCH),
    "stored.py:_of_results": (1, "L09"),
    "stored.py:_scores": (1, ERROR + "D18"),
    "stored.py:read_stored": (1, "L09"),
    "voc_in_coco.py:with_voc_class": (3, "prepare_coco says how many images it lists"),
}


def filters(path: Path) -> Counter[str]:
    """Return the functions of a file that may leave something out, and in how many places each does."""
    found: Counter[str] = Counter()

    def walk(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = name
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = f"{name}.{child.name}".lstrip(".")
            if is_filter(child):
                found[f"{path.relative_to(DATA).as_posix()}:{inner}"] += 1
            walk(child, inner)

    walk(ast.parse(path.read_text("utf-8")), "")
    return found


def is_filter(node: ast.AST) -> bool:
    match node:
        case ast.Continue():
            return True
        case ast.comprehension(ifs=[_, *_]):
            return True
        case ast.Subscript(slice=ast.Slice(upper=ast.expr())):
            return True
        case ast.Subscript(slice=index):
            return any(isinstance(part, ast.Compare) for part in ast.walk(index))
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name in CALLS
    return False


def test_every_filter_is_known_and_the_table_has_no_other() -> None:
    files = [path for path in DATA.rglob("*.py") if path.relative_to(DATA).as_posix() not in NO_DATA]
    found = sum(map(filters, files), Counter())
    known = Counter({name: places for name, (places, _) in KNOWN.items()})
    assert found - known == Counter(), "name the finding that counts what these leave out, or why they lose nothing"
    assert known - found == Counter(), "these are gone; take them out of the table"


@pytest.mark.parametrize(
    "code", ["for x in y:\n    continue", "[a for a in b if a]", "a[:9]", "a[b > 0]", "filter(a, b)"]
)
def test_a_filter_is_recognised(code: str) -> None:
    assert any(map(is_filter, ast.walk(ast.parse(code))))


def test_every_finding_of_the_table_has_a_case() -> None:
    """Those of ``LEFT_OUT`` have theirs in ``test_left_out``, which its own test says."""
    ids = {id for _, said in KNOWN.values() for id in ID.findall(said)} - LEFT_OUT.keys()
    tests = "".join(
        path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)
    )
    tests += (Path(__file__).parents[1] / "test_file_teacher.py").read_text("utf-8")
    assert not {id for id in ids if f'"{id}"' not in tests}


def test_a_finding_of_the_table_is_recorded_in_that_file_or_by_what_it_calls() -> None:
    """The ids of ``LEFT_OUT`` stand where they are told, so a row without its ``report_left_out`` is found."""
    source = {path.name: path.read_text("utf-8") for path in DATA.rglob("*.py")}
    for id in LEFT_OUT:
        assert any(re.search(rf'report_left_out\(\s*"{id}"', text) for text in source.values()), id
