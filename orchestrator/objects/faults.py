"""What goes wrong with the object store, in the project's own words: the one place where botocore's errors are read."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from orchestrator.domain.errors import NotFoundError, ObjectsUnavailableError

MISSING_CODES = frozenset({"404", "NoSuchKey", "NotFound"})
PRECONDITION_CODES = frozenset({"412", "PreconditionFailed"})
CONFLICT_CODES = frozenset({"409", "ConditionalRequestConflict", "OperationAborted"})


def error_code(error: ClientError) -> str:
    """The store's own code, or the HTTP status when the answer had no body."""
    return str(error.response.get("Error", {}).get("Code") or http_status(error))


def http_status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn botocore's errors into NotFoundError (object_missing) or ObjectsUnavailableError; `what` begins the message.

    Messages of the store are not passed on: they may hold addresses and signatures.
    """
    try:
        yield
    except ClientError as error:
        code = error_code(error)
        if code in MISSING_CODES:
            raise NotFoundError(f"{what}: there is no such object", code="object_missing") from error
        raise ObjectsUnavailableError(f"{what}: the object store answered {code}") from error
    except (BotoCoreError, HTTPClientError) as error:
        raise ObjectsUnavailableError(f"{what}: the object store does not answer ({type(error).__name__})") from error
