"""Evaluations of trained models. Importing one here registers it."""

from bytelm.evaluation.bits import Bits, Marginal
from bytelm.evaluation.boundaries import Boundaries
from bytelm.evaluation.capacity import Capacity
from bytelm.evaluation.codec import CodedBits
from bytelm.evaluation.harness import Harness
from bytelm.evaluation.languages import Languages
from bytelm.evaluation.next_word import NextWord
from bytelm.evaluation.positions import Positions
from bytelm.evaluation.robustness import Robustness
from bytelm.evaluation.segmentation import PatchStatistics
from bytelm.evaluation.suite import Evaluation, Scoring, evaluate
from bytelm.evaluation.targets import Targets
from bytelm.evaluation.tasks.tasks import Tasks
from bytelm.evaluation.training_suite import while_training
from bytelm.evaluation.utf8 import UTF8

__all__ = [
    "UTF8",
    "Bits",
    "Boundaries",
    "Capacity",
    "CodedBits",
    "Evaluation",
    "Harness",
    "Languages",
    "Marginal",
    "NextWord",
    "PatchStatistics",
    "Positions",
    "Robustness",
    "Scoring",
    "Targets",
    "Tasks",
    "evaluate",
    "while_training",
]
