"""Exit codes that scripts can rely on, and how an error is told: what, where and what to do, on standard error."""

import sys
from enum import IntEnum

from api.cli.plain import harmless
from api.client import errors as client_errors
from api.stack.errors import StackError


class ExitCode(IntEnum):
    OK = 0
    JOB_FAILED = 1
    """The command did its work, and the job that it waited for failed or was cancelled."""
    BAD_INPUT = 2
    NOT_FOUND = 3
    UNAUTHORIZED = 4
    UNAVAILABLE = 5
    CONFLICT = 6
    INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot go on; the message is for the user."""

    def __init__(self, message: str, code: ExitCode = ExitCode.BAD_INPUT, *, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


_CODES: tuple[tuple[type[Exception], ExitCode], ...] = (
    (client_errors.BadRequestError, ExitCode.BAD_INPUT),
    (client_errors.TooLargeError, ExitCode.BAD_INPUT),
    (client_errors.NotFoundError, ExitCode.NOT_FOUND),
    (client_errors.UnauthorizedError, ExitCode.UNAUTHORIZED),
    (client_errors.ForbiddenError, ExitCode.UNAUTHORIZED),
    (client_errors.NotConfiguredError, ExitCode.UNAUTHORIZED),
    (client_errors.ConflictError, ExitCode.CONFLICT),
    (client_errors.ClientError, ExitCode.UNAVAILABLE),
    (StackError, ExitCode.UNAVAILABLE),
)
"""The first row that matches holds; whatever else the server or the network did counts as unavailable."""

_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (client_errors.UnauthorizedError, "check TUNEPOOL_API_KEY, or make a key with `tunepool keys create`"),
    (client_errors.ForbiddenError, "ask an admin of the pool, or use a key with a higher role"),
    (client_errors.ConnectionFailedError, "is the pool up? `tunepool status` shows the local one; see TUNEPOOL_URL"),
)


def code_of(error: Exception) -> ExitCode:
    """The exit code of an error that reached the top. Raises it again when it is not one that we expect."""
    if isinstance(error, CommandError):
        return error.code
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    raise error


def tell(error: Exception) -> None:
    """Write the error for a person."""
    lines = [f"error: {error}"]
    hint = error.hint if isinstance(error, CommandError) else ""
    hint = hint or next((text for kind, text in _HINTS if isinstance(error, kind)), "")
    if hint:
        lines.append(f"hint: {hint}")
    if isinstance(error, client_errors.ApiError) and error.status >= 500 and error.request_id:
        lines.append(f"request: {error.request_id}")
    sys.stderr.write("\n".join(harmless(line, keep="\n\t") for line in lines) + "\n")
