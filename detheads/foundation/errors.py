"""The one exception a user's mistake may raise."""


class UserError(Exception):
    """Something the user can put right.

    The message is one sentence that says what is wrong, where, and what to do. The command line prints it
    without a traceback and exits with code 1.
    """
