"""What a run says when its next batch cannot be read."""

from pathlib import Path

from bytelm.core.errors import UserError


def reading_failed(failure: Exception, last_step: int | None, run_dir: Path) -> Exception:
    """The error that ends the run: a sentence for bad text, files or workers; else `failure`.

    Args:
        failure: what reading raised.
        last_step: of the last complete checkpoint; None if there is none.
        run_dir: where it is.
    """
    if not isinstance(failure, UserError | OSError):
        return failure
    reason = str(failure).rstrip(".")
    if last_step is None:
        return UserError(f"the next batch could not be read: {reason}.")
    return UserError(
        f"the next batch could not be read: {reason}. The run stops with its checkpoint of step "
        f"{last_step} in {run_dir}; continue with --resume."
    )
