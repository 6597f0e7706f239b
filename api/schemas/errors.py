"""The envelope of every answer that is not a success."""

from api.schemas.wire import Wire


class ErrorBody(Wire):
    message: str
    """What is wrong and what would be right, in one or two sentences."""
    type: str
    """The family: invalid_request_error, authentication_error, permission_error, rate_limit_error, server_error."""
    code: str | None
    """What is wrong, for programs; stable."""
    param: str | None
    """The field at fault, dotted, such as method.supervised.hyperparameters.n_epochs."""


class ErrorEnvelope(Wire):
    error: ErrorBody
