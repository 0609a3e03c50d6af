"""Every filter of ``ssod/data`` is known here: what leaves something out names the finding that counts it.

Read from the code: each ``continue``, comprehension with an ``if``, slice with an end, index that is a comparison, and
call of ``filter`` and its like, by file and function. A new one fails until it is in the table, with the ids of its
findings (``LEFT_OUT`` has a case for each of its own; others have one in the corpora), or with the reason why nothing
of the data is lost by it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ssod.data.formats.leftout import LEFT_OUT

DATA = Path(__file__).resolve().parents[2] / "ssod/data"
CALLS = {"filter", "filterfalse", "suppress", "islice", "compress", "takewhile", "dropwhile"}
ID = re.compile(r"[A-Z]\d\d")

TEXT = "cuts what a message shows"
SEARCH = "looks for one thing, and leaves the rest where it is"
ERROR = "what is left out is an error, which stops the run: "
KNOWN = {
    "checks/images.py:check_images": "I01 I02 I03 I04",
    "checks/samefile.py:_by_length": "cuts the work into parts for threads",
    "checks/samefile.py:common_content": "limit: the caller's, of ssod.check alone; it says what it looks at",
    "checks/samefile.py:common_places": SEARCH,
    "checks/visible.py:Visible.check": "L10 L11",
    "checks/visible.py:_matrices": "views that are hidden, as the config says",
    "checks/visible.py:too_small": "L10",
    "datasets.py:_fingerprint": "a part that is not there has nothing to digest",
    "formats/boxrules.py:report_twins": "L12",
    "formats/coco.py:_check_ids": TEXT,
    "formats/coco.py:differences": TEXT,
    "formats/coco.py:read_categories": TEXT,
    "formats/cocoimages.py:_report_twice": "D36",
    "formats/cocoimages.py:read_image_table": TEXT,
    "formats/cocoimages.py:repeated": "the first 1000 of the ids that are an error, D14",
    "formats/darknet.py:read_obj_data": SEARCH,
    "formats/findings.py:Finding.line": TEXT,
    "formats/findings.py:Findings.errors": SEARCH,
    "formats/findings.py:Findings.kinds": "a kind that was said; each is said once, with its count",
    "formats/findings.py:Findings.lines": "kinds without more findings than are kept",
    "formats/findings.py:Findings.rows": "all are counted in totals, which lines and kinds say",
    "formats/findings.py:short": TEXT,
    "formats/folder.py:_openable": "S05 S07",
    "formats/folder.py:before_wildcard": "parts of one path",
    "formats/folder.py:list_lines": "L04",
    "formats/header.py:_png_orientation": "bytes of one header",
    "formats/header.py:fill_sizes": ERROR + "I01",
    "formats/header.py:turn_upright": "an image that cannot be read: check_images, and whoever opens it, say so",
    "formats/infer.py:_fit": SEARCH,
    "formats/infer.py:_pick": TEXT,
    "formats/infer.py:_sample": "a sample decides about a folder; reading the set looks at all of it",
    "formats/infer.py:_voc_split": "a list's hidden copy, ._train.txt, is no list; nor has it images",
    "formats/infer.py:below_one_root": "keys that are no paths",
    "formats/infer.py:image_folder": SEARCH,
    "formats/infer.py:labeled_source": TEXT,
    "formats/jsonfile.py:_not_json": TEXT,
    "formats/jsonfile.py:read_text": "bytes of one mark, D05",
    "formats/listing.py:files_below": "hidden text files, of programs; whose images are counted as L01",
    "formats/listing.py:glob_names": "L01 L03",
    "formats/listing.py:image_names": "L01 L02 L03",
    "formats/listing.py:warn_of_hidden": "L01",
    "formats/paths.py:absent": SEARCH,
    "formats/paths.py:plain_name": "dots and slashes of one path",
    "formats/paths.py:unsafe_names": "S05 S07",
    "formats/presence.py:as_spelled": "L16",
    "formats/presence.py:check_files": "I01",
    "formats/voc.py:_labeled": ERROR + "V06",
    "formats/records.py:Labeled.subset": "what its caller chose",
    "formats/voc.py:_open": TEXT,
    "formats/voc.py:_objects": ERROR + "V04 V05 D22",
    "formats/vocnames.py:Folder.spelled": SEARCH,
    "formats/vocnames.py:_name": "the second column of a list of one class",
    "formats/vocnames.py:read_list": "blank lines",
    "formats/xmlfile.py:parse_xml": TEXT,
    "formats/yolo.py:_line_problem": ERROR + "D12 D26",
    "formats/yolo.py:_refuse_twins": ERROR + "D14",
    "formats/yolofile.py:DataYaml.names_of": SEARCH,
    "formats/yolofile.py:_base": SEARCH,
    "formats/yolofile.py:_by_number": TEXT,
    "formats/yolofile.py:class_names": SEARCH,
    "formats/yololabels.py:_listed": "files that are no images, whose names are compared with those of labels",
    "formats/yololabels.py:_near": TEXT,
    "formats/yololabels.py:_plain": "letters of one name",
    "formats/yololabels.py:_report_bare": "L06",
    "formats/yololabels.py:_report_orphans": "L05",
    "formats/yololabels.py:_text_files": "class lists, by name, and hidden files; all others are labels, or L05",
    "formats/yololabels.py:home": "parts of one path",
    "formats/yoloparts.py:_folders": "hidden folders are no parts",
    "formats/yoloparts.py:_from_list": "lines that begin otherwise are relative to another folder",
    "formats/yoloparts.py:find_part": "divides folders from lists; both are read",
    "formats/yoloparts.py:named_parts": SEARCH,
    "loading/loader.py:_Steps._unlabeled": "hidden views, as the config says",
    "loading/loader.py:eval_views": "cuts the images into batches",
    "loading/reader.py:Reader.or_next": "counted in bad, which training prints one by one",
    "loading/sampling.py:Sampling.share": "this process's share; the others have the rest",
    "loading/workers.py:_kill": SEARCH,
    "loading/workers.py:run": "an option of torch's that one process has no use for",
    "splits.py:WrittenSplit.__str__": TEXT,
    "splits.py:_write_split": "annotations of the images of the other file",
    "splits.py:describe": SEARCH,
    "splits.py:read_index_file": TEXT,
    "splits.py:select": "L08",
    "stored.py:_by_image": "L09",
    "stored.py:_of_annotations": SEARCH,
    "stored.py:_of_results": "L09",
    "stored.py:_scores": ERROR + "D18",
    "stored.py:read_stored": "L09",
    "synthetic.py:_objects": "draws pictures, reads none",
    "synthetic.py:_scribble": "draws pictures, reads none",
}


def filters(path: Path) -> set[str]:
    """Return the functions of a file that may leave something out."""
    found: set[str] = set()

    def walk(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = name
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = f"{name}.{child.name}".lstrip(".")
            if is_filter(child):
                found.add(f"{path.relative_to(DATA).as_posix()}:{inner}")
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
    found = set().union(*(filters(path) for path in DATA.rglob("*.py")))
    assert found - KNOWN.keys() == set(), "name the finding that counts what these leave out, or why they lose nothing"
    assert KNOWN.keys() - found == set(), "these are gone; remove them from the table"


@pytest.mark.parametrize(
    "code", ["for x in y:\n    continue", "[a for a in b if a]", "a[:9]", "a[b > 0]", "filter(a, b)"]
)
def test_a_filter_is_recognised(code: str) -> None:
    assert any(map(is_filter, ast.walk(ast.parse(code))))


def test_every_finding_of_the_table_has_a_case() -> None:
    """Those of ``LEFT_OUT`` have theirs in ``test_left_out``, which its own test says."""
    ids = {id for said in KNOWN.values() for id in ID.findall(said)} - LEFT_OUT.keys()
    tests = "".join(
        path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)
    )
    tests += (Path(__file__).parents[1] / "test_file_teacher.py").read_text("utf-8")
    assert not {id for id in ids if f'"{id}"' not in tests}


def test_a_finding_of_the_table_is_recorded_in_that_file_or_by_what_it_calls() -> None:
    """The ids of ``LEFT_OUT`` stand where they are told, so a row without its ``tell`` is found."""
    source = {path.name: path.read_text("utf-8") for path in DATA.rglob("*.py")}
    for id in LEFT_OUT:
        assert any(f'tell("{id}"' in text for text in source.values()), id
