"""Streamed bodies: chunk by chunk from the object store, as an attachment that no browser shows."""

from collections.abc import Iterator
from urllib.parse import quote

from anyio import CancelScope, to_thread
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

BINARY = "application/octet-stream"


class Download(StreamingResponse):
    """The source is closed when the client has it all, and when it leaves before."""

    def __init__(
        self, chunks: Iterator[bytes], *, filename: str, size_bytes: int | None = None, media_type: str = BINARY
    ) -> None:
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}"}
        if size_bytes is not None:
            headers["content-length"] = str(size_bytes)
        super().__init__(chunks, media_type=media_type, headers=headers)
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            close = getattr(self._chunks, "close", None)
            if close is not None:
                with CancelScope(shield=True):
                    await to_thread.run_sync(close)
