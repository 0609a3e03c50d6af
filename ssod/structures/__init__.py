"""The types that everything speaks."""

from ssod.structures.clusters import Clusters
from ssod.structures.detector import Assigner, Detector, Output, Priors
from ssod.structures.images import Batch, View
from ssod.structures.pieces import Pieces
from ssod.structures.pseudo import Pseudo, move_targets
from ssod.structures.rows import Assigned, Assignment, Formula, Kind, Predictions, Rank, RowLoss, unknown
from ssod.structures.statistics import LabelStatistics
from ssod.structures.targets import Targets, join, open_classes
from ssod.structures.tiles import Tiles

__all__ = [
    "Assigned",
    "Assigner",
    "Assignment",
    "Batch",
    "Clusters",
    "Detector",
    "Formula",
    "Kind",
    "LabelStatistics",
    "Output",
    "Pieces",
    "Predictions",
    "Priors",
    "Pseudo",
    "Rank",
    "RowLoss",
    "Targets",
    "Tiles",
    "View",
    "join",
    "move_targets",
    "open_classes",
    "unknown",
]
