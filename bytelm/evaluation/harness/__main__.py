"""The command line of `lm_eval`, which then knows the model `bytelm`.

`python -m bytelm.evaluation.harness --model bytelm --model_args checkpoint=RUN --tasks TASK...`
"""

import sys

from bytelm.core import compilation_cache
from bytelm.core.errors import UserError
from bytelm.core.terminal_text import say
from bytelm.evaluation.harness.tasks import require_harness


def main() -> int:
    """Runs it; returns the exit status."""
    try:
        require_harness()
        import lm_eval.models  # noqa: F401 (registers its own models)
        from lm_eval.__main__ import cli_evaluate

        import bytelm.evaluation.harness.model  # noqa: F401 (registers ours)

        compilation_cache.keep_programs()
        cli_evaluate()
    except UserError as error:
        say(f"error: {error}", sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
