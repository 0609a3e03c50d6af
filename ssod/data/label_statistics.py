"""What the labelled set holds, for a method that asks."""

import numpy as np
import torch

from ssod.data.formats.records import Labeled
from ssod.structures import LabelStatistics


def label_statistics(labeled: Labeled) -> LabelStatistics:
    """Count images and boxes of each class; crowds do not count.

    Where labels of a class are incomplete in some images, its numbers are those of the others, times what these are of
    all images; where they are in all, those that are there.
    """
    counted, k = ~labeled.crowd, len(labeled.classes)
    labels, owner = labeled.labels[counted], np.repeat(np.arange(len(labeled)), np.diff(labeled.starts))[counted]
    pairs = np.unique(owner * k + labels)  # of an image and a class
    boxes, images_with = np.bincount(labels, minlength=k), np.bincount(pairs % k, minlength=k)
    known_everywhere = None
    if labeled.incomplete is not None:
        complete = (~labeled.incomplete).sum(0)
        known_everywhere = torch.tensor([*complete.tolist(), len(labeled.complete())])
        known, known_pairs = ~labeled.incomplete[owner, labels], ~labeled.incomplete[pairs // k, pairs % k]
        factor = len(labeled) / np.maximum(complete, 1)
        of_known = np.bincount(labels[known], minlength=k), np.bincount(pairs[known_pairs] % k, minlength=k)
        boxes, images_with = (
            np.where(complete > 0, np.rint(some * factor).astype(np.int64), every)
            for some, every in zip(of_known, (boxes, images_with))
        )
    return LabelStatistics(
        images=len(labeled),
        boxes=torch.from_numpy(boxes),
        images_with=torch.from_numpy(images_with),
        complete=known_everywhere,
    )
