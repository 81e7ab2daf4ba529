"""Evaluations of trained models. Importing one here registers it."""

from bytelm.evaluation.bits import Bits, Marginal
from bytelm.evaluation.boundaries import Boundaries
from bytelm.evaluation.languages import Languages
from bytelm.evaluation.positions import Positions
from bytelm.evaluation.robustness import Robustness
from bytelm.evaluation.segmentation import PatchStatistics
from bytelm.evaluation.suite import Evaluation, Scoring, evaluate
from bytelm.evaluation.targets import Targets

__all__ = [
    "Bits",
    "Boundaries",
    "Evaluation",
    "Languages",
    "Marginal",
    "PatchStatistics",
    "Positions",
    "Robustness",
    "Scoring",
    "Targets",
    "evaluate",
]
