"""Rows of a job's streams: pages of what is there, or a live stream that survives every broken connection.

Each row has an id; a stream that broke is resumed after the last one that arrived, so no row is lost or comes twice.
"""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from api.client.errors import ConnectionFailedError, ServerError
from api.client.results import Result
from api.client.transport import Params, Transport

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 8.0
PATIENCE_SECONDS = 300.0
"""How long a stream that cannot be resumed is tried; a control plane that restarts needs seconds."""

R = TypeVar("R", bound=Result)


def follow_rows(
    transport: Transport,
    path: str,
    kind: type[R],
    params: Params,
    *,
    after: str | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[R]:
    """Yield rows as they come, until the job is final and nothing more can follow.

    Raises ConnectionFailedError or ServerError when the server stays away for longer than the patience.
    """
    last_id, pause = after, FIRST_PAUSE_SECONDS
    last_heard = time.monotonic()
    while True:
        try:
            for event, row_id, data in transport.stream_events(path, params, last_id=last_id):
                last_heard, pause = time.monotonic(), FIRST_PAUSE_SECONDS
                if event == "done":
                    return
                last_id = row_id or last_id
                yield kind.model_validate(data)
        except (ConnectionFailedError, ServerError):
            if time.monotonic() - last_heard > patience_seconds:
                raise
        sleep(pause)
        pause = min(LONGEST_PAUSE_SECONDS, 2 * pause)


def read_pages(transport: Transport, path: str, kind: type[R], params: Params) -> Iterator[R]:
    """Yield every row that is there now, page by page."""
    after = params.get("after")
    while True:
        page = transport.get(path, {**params, "after": after})
        for item in page["data"]:
            yield kind.model_validate(item)
        if not page["has_more"] or not page["data"]:
            return
        after = page["data"][-1]["id"]
