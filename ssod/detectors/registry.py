"""Which detectors there are, and which class is the config section of each; none is imported for that."""

from ssod.utils.docstrings import first_line

SECTIONS = {
    "retinanet": ("ssod.detectors.retinanet", "RetinaNetConfig"),
    "fcos": ("ssod.detectors.fcos", "FcosConfig"),
    "faster_rcnn": ("ssod.detectors.faster_rcnn", "FasterRcnnConfig"),
    "dense_detector": ("ssod.detectors.dense_detector", "DenseDetectorConfig"),
    "d2_retinanet": ("ssod.detectors.d2.config", "D2RetinaNetConfig"),
    "d2_fcos": ("ssod.detectors.d2.config", "D2FcosConfig"),
    "d2_faster_rcnn": ("ssod.detectors.d2.config", "D2FasterRcnnConfig"),
}


def describe() -> list[tuple[str, str]]:
    """Return each detector's name and one line about it: the first of its section's docstring."""
    return [(name, first_line(module, section)) for name, (module, section) in SECTIONS.items()]
