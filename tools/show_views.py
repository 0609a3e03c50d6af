"""Draw what a config's views make of a few images, with their boxes.

    python tools/show_views.py my.yaml -o views.png --images 4 --draws 2

The file is a whole config, or one with only the sections ``data`` and ``views``. A row is one draw of one image, a
column is one view; labelled images come first. Where the config's method mixes views with labelled images
(``method.mix``), further rows show it: mixup and mosaic of each unlabelled image's strong view, with the boxes of its
labelled partner; there is no teacher here to find others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.patches import Rectangle
from PIL import Image
from pydantic import ValidationError

from ssod import config
from ssod.data import datasets
from ssod.data.datasets import DataConfig, DataSets
from ssod.data.loading.loader import collate
from ssod.data.loading.reader import Reader
from ssod.structures import Pseudo, Targets
from ssod.transforms.mix import DIVISOR, MixConfig, Mixer
from ssod.transforms.transform import Setting
from ssod.transforms.views import Sample, ViewsConfig, check_others, make_views
from ssod.utils import atomic
from ssod.utils.errors import SsodError
from ssod.utils.yaml_io import read_yaml

Row = tuple[str, dict[str, Sample]]


def sections(path: Path) -> tuple[DataConfig, ViewsConfig, MixConfig | None]:
    """Read the two sections of a config, and how its method mixes."""
    tree = read_yaml(path)
    if not isinstance(tree, dict) or set(tree) != {"data", "views"}:
        cfg = config.load(path)
        return cfg.data, cfg.views, getattr(cfg.method, "mix", None)
    try:
        return DataConfig.model_validate(tree["data"]), ViewsConfig.model_validate(tree["views"]), None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise SsodError(path, field, first["msg"].removeprefix("Value error, "), "mend it") from None


def rows(data: DataSets, views: ViewsConfig, read: Reader, images: int, draws: int, seed: int) -> Iterator[Row]:
    """Yield (title, view name -> sample) for the first images of each part, as at the end of a run."""

    def opened(i: int) -> tuple[Image.Image, Targets]:
        return read(data.labeled.images, i), data.labeled.targets(i)

    n = len(data.labeled)
    check_others(views.labeled, n)
    setting, tiles = Setting(progress=1.0, count=n, read=opened), views.tiles
    for i in range(min(images, n)):
        for draw in range(draws):
            drawn = seed, "labeled", i, i + draw * n
            seen = make_views(*opened(i), views.labeled, *drawn, setting=setting, tiles=tiles)
            yield f"labelled {data.labeled.images.ids[i]}", seen
    if data.unlabeled is None or not views.unlabeled:
        return
    unlabeled, n = data.unlabeled, len(data.unlabeled)
    check_others(views.unlabeled, n, "unlabeled")
    setting = Setting(count=n, read=lambda i: (read(unlabeled, i), None))
    for i in range(min(images, n)):
        for draw in range(draws):
            drawn = seed, "unlabeled", i, i + draw * n
            seen = make_views(read(data.unlabeled, i), None, views.unlabeled, *drawn, setting=setting, tiles=tiles)
            yield f"unlabelled {data.unlabeled.ids[i]}", seen


def mixed(found: list[Row], mix: MixConfig, classes: int) -> Iterator[Row]:
    """Yield (title, what was done -> sample) for pairs of an unlabelled and a labelled image."""
    unlabeled = [(title, seen["strong"]) for title, seen in found if title.startswith("unlabelled")]
    labeled = [(title, next(iter(seen.values()))) for title, seen in found if not title.startswith("unlabelled")]
    for (mine, own), (theirs, partner) in zip(unlabeled, labeled):
        seen = {}
        for what, odds in (("mixup", (1, 0)), ("mosaic", (0, 1))):
            mixer = Mixer(classes, mixup=odds[0], mosaic=odds[1], alpha=mix.alpha, tiles=mix.tiles)
            none = Pseudo([Targets.empty(torch.zeros(1))])
            view, labels = mixer(collate([own], [0], DIVISOR), none, collate([partner], [0], DIVISOR))
            height, width = view.sizes[0].tolist()
            pixels = (view.images[0, :, :height, :width] * 255).round().byte().permute(1, 2, 0)
            seen[what] = Sample(Image.fromarray(pixels.numpy()), own.matrix, own.key, labels.cls[0])
        yield f"{mine} + {theirs}", seen


def draw_sample(axes: Axes, sample: Sample, names: tuple[str, ...]) -> None:
    """Draw a picture and its boxes; ignore regions are dashed."""
    axes.imshow(np.asarray(sample.image))
    if sample.targets is None:
        return
    boxes, labels, trust = (t.tolist() for t in (sample.targets.boxes, sample.targets.labels, sample.targets.trust()))
    for (x1, y1, x2, y2), label, weight in zip(boxes, labels, trust):
        color, style = plt.cm.tab10(label % 10), "-" if weight else "--"
        # imshow puts the middle of the first pixel at 0; boxes put its left edge there.
        axes.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, ec=color, ls=style, lw=1.5))
        plate = {"facecolor": color, "pad": 0.5, "linewidth": 0, "alpha": 0.7}
        axes.text(x1, y1, names[label], color="white", fontsize=5, va="bottom", bbox=plate, clip_on=True)


def sheet(found: list[Row], names: tuple[str, ...], path: Path) -> None:
    """Write the picture grid."""
    columns = max(len(seen) for _, seen in found)
    figure, grid = plt.subplots(len(found), columns, figsize=(3.2 * columns, 3 * len(found)), squeeze=False)
    for (title, seen), line in zip(found, grid):
        for axes in line:
            axes.axis("off")
        for axes, (name, sample) in zip(line, seen.items()):
            draw_sample(axes, sample, names)
            width, height = sample.image.size
            axes.set_title(f"{title}: {name}, {width}x{height}", fontsize=7)
    figure.tight_layout()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise atomic.refused(path, error) from None
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description="Draw what a config's views make of a few images.")
    parser.add_argument("config", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("views.png"))
    parser.add_argument("--images", type=int, default=3, help="images of each part")
    parser.add_argument("--draws", type=int, default=1, help="random draws of each image")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if min(args.images, args.draws) < 1:
        parser.error("--images and --draws are 1 or more")
    if args.out.suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
        parser.error(f"-o: '{args.out}' is no picture file; use .png")
    try:
        data_config, views, mix = sections(args.config)
        data = datasets.load(data_config)
        read = data_config.reader()
        found = list(rows(data, views, read, args.images, args.draws, args.seed))
        if mix is not None:
            found += mixed(found, mix, len(data.classes))
        sheet(found, data.classes.names, args.out)
    except SsodError as error:
        print(f"ssod: error: {error.line()}", file=sys.stderr)
        return int(error.code)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
