"""How foreign unlabelled images are to the labelled ones: whether a simple classifier tells the two apart.

Each image becomes 34 numbers: of a thumbnail of 64 x 64, the shares of its pixels in 8 bins of red, green and blue, the
shares of its grey values' gradients in 8 bins, and mean and deviation of grey. A logistic regression learns from four
fifths of the images which set they are of and ranks the last fifth, five times; the area under that ranking's curve is
0.5 where the sets look the same, and 1 where one look tells them apart. It says nothing about the objects in them.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from PIL import Image

from ssod.data.formats.findings import Context
from ssod.data.formats.header import path_of
from ssod.data.formats.image import FORMATS, to_rgb
from ssod.data.formats.records import Images
from ssod.utils.errors import SsodError

MOST = 200  # images of a set that are looked at, evenly spread
LEAST = 10  # below so many images of a set the number would be chance
SIDE = 64
_EDGES = np.array([0, 2, 4, 8, 16, 32, 64, 128, 512])  # of gradients, grey values a pixel
_FOLDS = 5


def foreignness(first: Images, second: Images, ctx: Context) -> float | None:
    """Return the area under the curve, 0..1, with which the images of two sets are told apart.

    Args:
        first: one set.
        second: the other.
        ctx: rules; for opening the images. One that cannot be read is left out.

    Returns:
        None where one of the sets has fewer than ``LEAST`` images that can be read.
    """
    numbers = [features(images, ctx) for images in (first, second)]
    return told_apart(*numbers) if min(map(len, numbers)) >= LEAST else None


def told_apart(first: np.ndarray, second: np.ndarray) -> float:
    """Return the area under the curve of two sets of [N, 34] and [M, 34] numbers, cross-validated."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values = np.concatenate([first, second])
    which = np.repeat([0, 1], [len(first), len(second)])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    scores = cross_val_predict(model, values, which, cv=folds, method="decision_function")
    return float(roc_auc_score(which, scores))


def features(images: Images, ctx: Context) -> np.ndarray:
    """Return [N, 34] float64 of up to ``MOST`` images, evenly spread, that can be read."""
    rows = np.unique(np.linspace(0, len(images) - 1, min(MOST, len(images))).round().astype(int)).tolist()
    found = []
    for row in rows:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(path_of(images, row, ctx), formats=FORMATS) as image:
                    if image.width * image.height > ctx.rules.max_pixels:
                        continue
                    image.draft("RGB", (SIDE, SIDE))  # a JPEG is decoded at a fraction of its size
                    image.load()
                    picture = to_rgb(image, ctx.rules.pixels)
        except (SsodError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # `ssod check` says what is wrong with it
        found.append(numbers_of(picture))
    return np.array(found).reshape(-1, 34)


def numbers_of(picture: Image.Image) -> np.ndarray:
    """Return the [34] float64 numbers of an RGB picture."""
    small = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small, np.float64)
    grey = np.asarray(small.convert("L"), np.float64)
    colors = [np.histogram(pixels[..., channel], 8, (0, 256))[0] for channel in range(3)]
    slope = np.hypot(np.diff(grey, axis=1)[:-1], np.diff(grey, axis=0)[:, :-1])
    slopes = np.histogram(slope, _EDGES)[0]
    shares = np.concatenate([*colors, slopes]) / math.prod(grey.shape)
    return np.concatenate([shares, [grey.mean() / 255, grey.std() / 255]])
