"""lm-evaluation-harness (`lm_eval`, the extra `harness`): its tasks, with our models.

`bytelm eval --harness TASK...` reports them, and `python -m bytelm.evaluation.harness` is its own
command line with the model `bytelm`. `lm_eval` finds no models of other packages by itself: in
Python, import `bytelm.evaluation.harness.model`.
"""

from bytelm.evaluation.harness.tasks import Harness

__all__ = ["Harness"]
