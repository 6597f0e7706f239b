"""One HTTP connection pool with the API's manners: the key, typed errors, retries that obey the server, streams.

Every request of the API may be repeated: creates carry an Idempotency-Key, the rest are safe by themselves. So a
dropped connection, a time-out, 429 and 5xx are retried, with the server's `retry-after` where it gives one.
"""

import io
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import httpx2
import stamina

from api.client.errors import ApiError, ConnectionFailedError, NotConfiguredError, error_of

LONGEST_RETRY_AFTER_SECONDS = 60.0
"""A server that asks for more is not waited for; its error is raised."""
CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
"""Streams ping every 15 s, so a silence of this length means that the connection is dead."""

Params = Mapping[str, str | int | bool | None]
Body = Mapping[str, Any]
OnProgress = Callable[[int, int], None]
"""Called with the bytes that are there by now and the bytes that there will be."""


class Transport:
    def __init__(self, base_url: str | None, api_key: str | None, *, max_retries: int = 5) -> None:
        base_url = base_url or os.environ.get("TUNEPOOL_URL")
        api_key = api_key or os.environ.get("TUNEPOOL_API_KEY")
        if not base_url or not api_key:
            raise NotConfiguredError("no address or no API key: give them, or set TUNEPOOL_URL and TUNEPOOL_API_KEY")
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self._max_retries = max_retries
        timeout = httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        self.http = httpx2.Client(
            base_url=self.base_url,
            headers={"authorization": f"Bearer {api_key}", "user-agent": "tunepool-python"},
            timeout=timeout,
        )
        self.open_http = httpx2.Client(timeout=timeout, follow_redirects=True)
        """For presigned URLs: they carry their own signature, and the key must not travel to the object store."""

    def close(self) -> None:
        self.http.close()
        self.open_http.close()

    def get(self, path: str, params: Params | None = None) -> Any:
        return self._json("GET", path, params=params)

    def post(self, path: str, body: Body | None = None, *, idempotency_key: str | None = None) -> Any:
        """`idempotency_key` makes repeats of this call known; the repeats within it always are."""
        return self._json("POST", path, body=body, idempotency_key=idempotency_key or str(uuid.uuid4()))

    def patch(self, path: str, body: Body) -> Any:
        return self._json("PATCH", path, body=body)

    def delete(self, path: str) -> Any:
        return self._json("DELETE", path)

    def post_file(
        self,
        path: str,
        content: Path | bytes,
        *,
        field_name: str,
        fields: Mapping[str, str] | None = None,
        on_sent: Callable[[int], None] | None = None,
    ) -> Any:
        """Send a file as multipart/form-data, streamed from where it is and opened anew for each try.

        `on_sent` is told how many bytes of it were sent by now; a new try begins at 0 again.
        """
        headers = {"idempotency-key": str(uuid.uuid4())}

        def send() -> httpx2.Response:
            with _open(content, on_sent) as body:
                name = content.name if isinstance(content, Path) else "upload"
                part = (name, body, "application/octet-stream")
                return _answer(self.http.post(path, data=dict(fields or {}), files={field_name: part}, headers=headers))

        return self.attempt(send).json()

    def stream_events(self, path: str, params: Params, *, last_id: str | None) -> Iterator[tuple[str, str, Any]]:
        """(event, id, data) of a server-sent stream; the iterator ends with the connection, and the caller resumes it.

        Raises ApiError when the server refuses, ConnectionFailedError when the stream broke.
        """
        headers = {"last-event-id": last_id} if last_id else {}
        query = _clean({**params, "stream": True})
        try:
            with self.http.sse(path, params=query, headers=headers) as source:
                if source.response.is_error:
                    source.response.read()
                    _answer(source.response)
                for event in source:
                    if event.data:
                        yield event.event, event.id, json.loads(event.data)
        except httpx2.TransportError as error:
            raise ConnectionFailedError(self._no_answer(error)) from error

    def stream_bytes(self, path: str) -> "httpx2.Response":
        """An open response of a large body; the caller closes it. Not retried half-way."""

        def send() -> httpx2.Response:
            response = self.http.send(self.http.build_request("GET", path), stream=True)
            if response.is_error:
                response.read()
            return _answer(response)

        return self.attempt(send)

    def attempt(self, call: Callable[[], httpx2.Response]) -> httpx2.Response:
        """Repeat a call while that can help. Raises the last ApiError, or ConnectionFailedError."""
        try:
            for again in stamina.retry_context(
                on=_decide_retry, attempts=self._max_retries + 1, timeout=None, wait_initial=0.25, wait_max=8.0
            ):
                with again:
                    return call()
        except httpx2.TransportError as error:
            raise ConnectionFailedError(self._no_answer(error)) from error
        raise AssertionError("the last attempt returned or raised")

    def _json(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: Body | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        headers = {"idempotency-key": idempotency_key} if idempotency_key else {}
        return self.attempt(
            lambda: _answer(self.http.request(method, path, params=_clean(params or {}), json=body, headers=headers))
        ).json()

    def _no_answer(self, error: Exception) -> str:
        return f"{self.base_url} does not answer: {error or type(error).__name__}"


class _Counted(io.BufferedReader):
    """A body that says how far it was read."""

    def __init__(self, raw: io.FileIO | io.BytesIO, on_read: Callable[[int], None]) -> None:
        super().__init__(raw)
        self._on_read = on_read

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        self._on_read(self.tell())
        return found


def _open(content: Path | bytes, on_sent: Callable[[int], None] | None) -> BinaryIO:
    raw = io.BytesIO(content) if isinstance(content, bytes) else io.FileIO(content)
    return _Counted(raw, on_sent or (lambda sent_bytes: None))


def _answer(response: httpx2.Response) -> httpx2.Response:
    """The response itself when it is a success; raises its ApiError otherwise."""
    if not response.is_error:
        return response
    try:
        body = response.json()
    except ValueError:
        body = None
    raise error_of(response.status_code, body, dict(response.headers))


def _decide_retry(error: Exception) -> bool | float:
    """Whether to try again: False, True for the client's own back-off, or the seconds that the server asked for."""
    if isinstance(error, httpx2.TransportError):
        return True
    if not isinstance(error, ApiError):
        return False
    retryable = error.retryable
    if retryable is None:
        retryable = error.status == 429 or error.status >= 500
    if not retryable or error.retry_after_seconds is None:
        return retryable
    return error.retry_after_seconds if error.retry_after_seconds <= LONGEST_RETRY_AFTER_SECONDS else False


def _clean(params: Params) -> dict[str, str]:
    """Query parameters as text; absent ones are left out."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in params.items()
        if value is not None
    }
