"""The types that everything speaks."""

from ssod.structures.detector import Detector, Output
from ssod.structures.images import Batch, View
from ssod.structures.mapped import LabelStatistics
from ssod.structures.pseudo import Pseudo, move_targets
from ssod.structures.rows import Assigned, Assignment, Predictions, Rank, RowLoss
from ssod.structures.targets import Targets, join

__all__ = [
    "Assigned",
    "Assignment",
    "Batch",
    "Detector",
    "LabelStatistics",
    "Output",
    "Predictions",
    "Pseudo",
    "Rank",
    "RowLoss",
    "Targets",
    "View",
    "join",
    "move_targets",
]
