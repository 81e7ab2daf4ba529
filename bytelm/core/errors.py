"""The exception for mistakes that a user can put right."""


class UserError(Exception):
    """A mistake in the user's input: one sentence that says what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """


class StoppedError(UserError):
    """What went wrong when a run saved its state because a signal asked it to stop."""
