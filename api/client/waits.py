"""Why jobs wait, as the API answers (see `results`)."""

from typing import Any

from api.client.results import Result


class Hint(Result):
    """What would let a waiting job start."""

    code: str
    sentence: str
    facts: dict[str, Any]


class Why(Result):
    """Why a job waits; `code` is None for one that is about to start."""

    id: str
    code: str | None
    sentence: str
    facts: dict[str, Any]
    position: int | None
    waiting: int
    would_start_if: tuple[Hint, ...] = ()
    expected_start_at: int | None = None
