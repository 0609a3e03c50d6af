"""What the labelled set holds, for a method that asks."""

import numpy as np
import torch

from ssod.data.formats.records import Labeled
from ssod.structures import LabelStatistics


def label_statistics(labeled: Labeled) -> LabelStatistics:
    """Count images and boxes of each class; crowds do not count."""
    counted, k = ~labeled.crowd, len(labeled.classes)
    labels, owner = labeled.labels[counted], np.repeat(np.arange(len(labeled)), np.diff(labeled.starts))[counted]
    pairs = np.unique(owner * k + labels)  # of an image and a class
    return LabelStatistics(
        images=len(labeled),
        boxes=torch.from_numpy(np.bincount(labels, minlength=k)),
        images_with=torch.from_numpy(np.bincount(pairs % k, minlength=k)),
    )
