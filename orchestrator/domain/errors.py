"""What is raised to a caller. `api/errors.py` alone knows the HTTP status of each.

TunepoolError(message, code, param)
├─ RequestError              the caller can fix it
│  ├─ InvalidRequestError      a field, a file or a combination is wrong
│  │  └─ CannotFitError        no device of the pool could ever hold the job
│  ├─ UnauthenticatedError     no key, or a bad one
│  ├─ ForbiddenError           the key's role does not allow it
│  ├─ NotFoundError            not there, or another team's
│  ├─ ConflictError            the state does not allow it; repeating does not help
│  │  ├─ IllegalTransitionError
│  │  ├─ IdempotencyMismatchError
│  │  └─ InProgressError       the first request with this key is still running; repeating helps
│  ├─ TooLargeError            over a size limit
│  ├─ QuotaExceededError       a team's budget or limit is used up
│  └─ RateLimitedError         too many requests of this key; repeating later helps
├─ UnavailableError          try again later
│  ├─ StoreUnavailableError · ObjectsUnavailableError · ClusterUnavailableError · HubUnavailableError
├─ UntraceableError          internal: there is no traced estimate; the closed form answers
├─ LeaseLostError            internal: someone else acts on the attempt now; drop the result
└─ AttemptGoneError          internal: the supervisor is not there any more
"""


class TunepoolError(Exception):
    """Something went wrong inside Tunepool."""

    code: str = "internal_error"

    def __init__(self, message: str | None = None, *, code: str | None = None, param: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        self.code = code or type(self).code
        self.param = param
        super().__init__(self.message)


class RequestError(TunepoolError):
    """The request cannot be carried out as it is."""

    code = "invalid_request"


class InvalidRequestError(RequestError):
    """A field of the request is not valid."""

    code = "invalid_value"


class CannotFitError(InvalidRequestError):
    """No device of this pool could ever hold this job."""

    code = "cannot_fit"


class UnauthenticatedError(RequestError):
    """No valid API key was given."""

    code = "invalid_api_key"


class ForbiddenError(RequestError):
    """The API key's role does not allow this."""

    code = "permission_denied"


class NotFoundError(RequestError):
    """There is no such object."""

    code = "not_found"


class ConflictError(RequestError):
    """The object's state does not allow this."""

    code = "conflict"


class IllegalTransitionError(ConflictError):
    """The job's state does not allow this."""

    code = "invalid_state"


class IdempotencyMismatchError(ConflictError):
    """This Idempotency-Key was used before with a different request."""

    code = "idempotency_key_reused"


class InProgressError(ConflictError):
    """The first request with this Idempotency-Key is still running."""

    code = "request_in_progress"


class TooLargeError(RequestError):
    """The request is over a size limit."""

    code = "too_large"


class QuotaExceededError(RequestError):
    """A limit of the team is used up."""

    code = "insufficient_quota"


class RateLimitedError(RequestError):
    """This key sends too many requests. Try again later."""

    code = "rate_limit_exceeded"


class UnavailableError(TunepoolError):
    """A part of the system does not answer. Try again later."""

    code = "unavailable"


class StoreUnavailableError(UnavailableError):
    """The database does not answer. Try again later."""

    code = "store_unavailable"


class ObjectsUnavailableError(UnavailableError):
    """The object store does not answer. Try again later."""

    code = "storage_unavailable"


class ClusterUnavailableError(UnavailableError):
    """The Ray cluster does not answer. Try again later."""

    code = "cluster_unavailable"


class HubUnavailableError(UnavailableError):
    """The model hub does not answer. Try again later."""

    code = "hub_unavailable"


class UntraceableError(TunepoolError):
    """There is no traced estimate of this plan, and the message says why."""

    code = "untraceable"


class LeaseLostError(TunepoolError):
    """Another control plane holds the lease of this attempt."""

    code = "lease_lost"


class AttemptGoneError(TunepoolError):
    """The supervisor of this attempt is not there."""

    code = "attempt_gone"
