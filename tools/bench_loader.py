"""How many images a second one core makes views of: the views that methods have of an unlabelled COCO image, on JPEG
files of photos.

    python -m tools.bench_loader FOLDER [--images 40] [--method soft_teacher ...]

For each method, the views of its recipe on COCO: decode, make both views, lay them into batches. In the same rounds,
on the same files, the least that a loader has to do with Pillow for views of these very sizes: decode once, resize once
a view, copy; no flip and no colour. It is a measure that does not change: a loader can do with less. Methods whose
views are the same share a row, and `decode` opens the file and does no more. Seconds are those of the processor, so
that others on the machine matter little; of each file the median of `--rounds` counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from ssod.data.formats.image import open_image
from ssod.data.loading.loader import collate
from ssod.transforms.transform import Setting
from ssod.transforms.views import Pipeline, ViewsConfig, make_views
from ssod.utils import recipes
from ssod.utils.config_errors import read_section
from ssod.utils.errors import SsodError
from ssod.utils.recipes import Recipe
from tools.options import COMMAND_LINE, count

ENDINGS = {".jpg", ".jpeg"}
Size = tuple[int, int]  # (width, height)


def pictures(folder: Path, most: int) -> list[Path]:
    """Return the first JPEG files below a folder.

    Raises:
        SsodError: code 2, there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)[:most]
    if not found:
        raise SsodError("command line", "FOLDER", f"no JPEG file below {folder}", "name a folder of photos")
    return found


def views_of(method: str) -> dict[str, Pipeline] | None:
    """Return the views of an unlabelled image that a method's recipe on COCO has; None where it has no such images."""
    for detector in ("retinanet_r50_fpn", "fcos_r50_fpn"):
        try:
            tree, _ = recipes.compose(Recipe(method=method, detector=detector, data="coco"))
            break
        except SsodError:
            continue  # a detector that the method is not offered on
    views = read_section(ViewsConfig, tree["views"], "views", COMMAND_LINE, {})
    return views.unlabeled if tree["method"]["name"] != "supervised" else None


def by_views(methods: list[str]) -> dict[str, dict[str, Pipeline]]:
    """Return the pipelines of methods; names of those that have the same are joined."""
    rows: dict[str, tuple[list[str], dict[str, Pipeline]]] = {}
    for method in methods:
        pipelines = views_of(method)
        if pipelines:
            rows.setdefault(repr(pipelines), ([], pipelines))[0].append(method)
    return {", ".join(named): pipelines for named, pipelines in rows.values()}


@dataclass
class Cost:
    """Seconds for one file on average.

    Attributes:
        views: of a method's views.
        shortest: of the least that makes views of the same sizes.
    """

    views: float = 0.0
    shortest: float = 0.0


def full(path: Path, pipelines: Mapping[str, Pipeline], number: int, setting: Setting) -> list[Size]:
    """Make the views of a file as the loader does; return their sizes."""
    made = make_views(open_image(str(path)), None, pipelines, 0, "bench", number, setting=setting)
    for sample in made.values():
        collate([sample], [number], 32)
    return [sample.image.size for sample in made.values()]


def shortest(path: Path, sizes: list[Size]) -> None:
    """Do the least that makes views of some sizes."""
    image = open_image(str(path))
    for size in sizes:
        np.array(image.resize(size, Image.Resampling.BILINEAR))


def measure(rows: Mapping[str, Mapping[str, Pipeline]], files: list[Path], rounds: int) -> dict[str, Cost]:
    """Return what each row costs; rows take turns file by file, and a mosaic takes other pictures of the same files."""
    setting = Setting(count=len(files), read=lambda i: (open_image(str(files[i])), None))
    total = {name: Cost() for name in ("decode", *rows)}
    for number, path in enumerate(files):
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in total}
        for turn in range(rounds):
            for name in total:
                pipelines, begin = rows.get(name), time.process_time()
                sizes = [] if pipelines is None else full(path, pipelines, number + turn * len(files), setting)
                middle = begin if pipelines is None else time.process_time()
                shortest(path, sizes)
                end = time.process_time()
                times[name].append((end - begin if pipelines is None else middle - begin, end - middle))
        for name, pairs in times.items():
            total[name].views += median(views for views, _ in pairs) / len(files)
            total[name].shortest += median(least for _, least in pairs) / len(files)
    return total


def show(costs: Mapping[str, Cost], files: int) -> None:
    """Print a row for each, the fastest first."""
    table = Table(title=f"{files} files, one core")
    for column in ("views of", "images/s", "ms", "least, ms", "over the least"):
        table.add_column(column, justify="left" if column == "views of" else "right")
    for name, cost in sorted(costs.items(), key=lambda item: item[1].views):
        numbers = f"{1 / cost.views:.1f}", f"{1000 * cost.views:.1f}", f"{1000 * cost.shortest:.1f}"
        table.add_row(name, *numbers, f"{cost.views / cost.shortest:.2f}")
    Console().print(table)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="JPEG files, also in folders below")
    parser.add_argument("--images", type=count, default=40, help="files at most")
    parser.add_argument("--rounds", type=count, default=3, help="of which the median counts")
    parser.add_argument("--method", nargs="*", choices=recipes.names("method"), default=recipes.names("method"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, Cost]:
    """Measure and print; return what each row costs."""
    args = arguments(argv)
    files = pictures(args.folder, args.images)
    costs = measure(by_views(args.method), files, args.rounds)
    show(costs, len(files))
    return costs


if __name__ == "__main__":
    try:
        main()
    except SsodError as error:
        print(f"bench_loader: error: {error.line()}", file=sys.stderr)
        sys.exit(int(error.code))
