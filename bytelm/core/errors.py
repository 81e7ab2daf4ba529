"""The exception for mistakes that a user can put right, and the words of others."""


class UserError(Exception):
    """A mistake in the user's input: one sentence that says what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """


def first_line(error: BaseException) -> str:
    """The message of an error, as one line of at most 200 characters."""
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


class StoppedError(UserError):
    """What went wrong when a run saved its state because a signal asked it to stop."""
