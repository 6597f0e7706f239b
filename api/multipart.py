"""How an upload is read: part by part, in bounded memory, with the text fields judged before the file is touched.

The parser runs on the event loop; whoever stores the file runs in a thread and pulls chunk after chunk out of the
loop, so the network is never read faster than the store takes it. A client that goes away, or says nothing for
STALL_SECONDS, makes the chunks raise, and the store drops what it had.
"""

import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, TypeVar

from anyio import CapacityLimiter, fail_after, from_thread, to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from orchestrator.domain.errors import InvalidRequestError, TooLargeError

T = TypeVar("T")

MAX_PARTS = 64
MAX_FIELD_BYTES = 16 * 1024
OVERHEAD_BYTES = MAX_PARTS * (MAX_FIELD_BYTES + 1024)
"""What the body may be larger than the file in it."""
CHUNK_BYTES = 256 * 1024
STALL_SECONDS = 60.0


@dataclass
class Part:
    name: str
    filename: str | None
    """None for a text field."""


@dataclass
class Form:
    """The fields so far. Those that come after the file are there once the file's chunks are exhausted."""

    filename: str = ""
    fields: dict[str, str] = field(default_factory=dict)


class MultipartReader:
    """Yields the parts of a multipart/form-data body in their order; each part is read before the next begins."""

    def __init__(self, content_type: str, stream: AsyncIterator[bytes], *, max_body_bytes: int) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise InvalidRequestError(
                "the body must be sent as Content-Type: multipart/form-data", code="unsupported_content_type"
            )
        self._stream = stream
        self._left_bytes = max_body_bytes
        self._items: deque[Part | bytes | None] = deque()
        """A Part begins a part, bytes belong to it, None ends it."""
        self._ended = False
        self._parts = 0
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = bytearray(), bytearray()
        try:
            self._parser = MultipartParser(options[b"boundary"], self._callbacks())  # type: ignore[arg-type]
        except FormParserError as error:
            raise InvalidRequestError(f"the multipart body is malformed: {error}", code="invalid_multipart") from None

    async def next_part(self) -> Part | None:
        """The next part, skipping what is left of this one; None after the last."""
        while True:
            while self._items:
                item = self._items.popleft()
                if isinstance(item, Part):
                    return item
            if self._ended:
                return None
            await self._fill()

    async def read(self) -> bytes:
        """Up to CHUNK_BYTES of the current part, empty at its end."""
        chunk = bytearray()
        while len(chunk) < CHUNK_BYTES:
            while not self._items:
                await self._fill()
            if not isinstance(self._items[0], bytes):
                break
            chunk += self._items.popleft()  # type: ignore[arg-type]
        return bytes(chunk)

    async def read_text(self) -> str:
        """A whole text field."""
        text = bytearray()
        while chunk := await self.read():
            text += chunk
            if len(text) > MAX_FIELD_BYTES:
                raise TooLargeError(f"a form field is over {MAX_FIELD_BYTES} bytes")
        try:
            return text.decode().replace("\0", "")
        except UnicodeDecodeError:
            raise InvalidRequestError("a form field is not UTF-8", code="invalid_multipart") from None

    async def _fill(self) -> None:
        try:
            with fail_after(STALL_SECONDS):
                data = await anext(self._stream, b"")
                while not data:  # the end of a request's stream is an empty chunk too
                    data = await anext(self._stream)
        except StopAsyncIteration:
            raise InvalidRequestError(
                "the multipart body ends before its last boundary", code="invalid_multipart"
            ) from None
        except TimeoutError:
            raise InvalidRequestError(
                f"nothing of the upload arrived for {STALL_SECONDS:.0f} s", code="upload_stalled"
            ) from None
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise TooLargeError("the upload is larger than what is accepted here")
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequestError(f"the multipart body is malformed: {error}", code="invalid_multipart") from None

    def _callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._headers.clear,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": lambda data, start, end: self._items.append(bytes(data[start:end])),
            "on_part_end": lambda: self._items.append(None),
            "on_end": self._on_end,
        }

    def _on_header_end(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise TooLargeError(f"the form has more than {MAX_PARTS} parts")
        _, options = parse_options_header(self._headers.get(b"content-disposition", b"").decode("latin-1"))
        filename = options.get(b"filename")
        self._items.append(
            Part(
                name=options.get(b"name", b"").decode("utf-8", "replace"),
                filename=None if filename is None else filename.decode("utf-8", "replace").replace("\0", ""),
            )
        )

    def _on_end(self) -> None:
        self._ended = True


@dataclass(frozen=True, kw_only=True)
class Intake:
    """What an upload route takes: the file's field, the text fields it needs before it can store, and the limit."""

    file_field: str
    needed_fields: tuple[str, ...] = ()
    max_file_bytes: int
    limiter: CapacityLimiter
    """Uploads have threads of their own: however slow their clients are, other requests go on."""


async def receive_file(request: Request, intake: Intake, store: Callable[[Form, Iterator[bytes]], T]) -> T:
    """Call `store` in a thread with the form and the file's chunks, and return what it returns.

    When the file comes before a field that is needed, it waits in a temporary file until the body was read.
    """
    _check_announced_size(request, intake)
    reader = MultipartReader(
        request.headers.get("content-type", ""),
        request.stream(),
        max_body_bytes=intake.max_file_bytes + OVERHEAD_BYTES,
    )
    form = Form()
    while (part := await reader.next_part()) is not None:
        if part.name == intake.file_field and part.filename is not None:
            form.filename = part.filename
            early = any(name not in form.fields for name in intake.needed_fields)
            work = _spool_then_store if early else _store_at_once
            return await to_thread.run_sync(work, reader, form, intake, store, limiter=intake.limiter)
        form.fields.setdefault(part.name, await reader.read_text())
    raise InvalidRequestError(
        f"the form has no file in its field {intake.file_field!r}",
        code="missing_required_parameter",
        param=intake.file_field,
    )


def _check_announced_size(request: Request, intake: Intake) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > intake.max_file_bytes + OVERHEAD_BYTES:
        raise TooLargeError(f"at most {intake.max_file_bytes} bytes are accepted here", param=intake.file_field)


def _store_at_once(
    reader: MultipartReader, form: Form, intake: Intake, store: Callable[[Form, Iterator[bytes]], T]
) -> T:
    return store(form, _pull(reader, form, intake))


def _spool_then_store(
    reader: MultipartReader, form: Form, intake: Intake, store: Callable[[Form, Iterator[bytes]], T]
) -> T:
    with tempfile.TemporaryFile() as spool:
        for chunk in _pull(reader, form, intake):
            spool.write(chunk)
        spool.seek(0)
        return store(form, _read_chunks(spool))


def _pull(reader: MultipartReader, form: Form, intake: Intake) -> Iterator[bytes]:
    """The file's chunks; after the last, the rest of the form is read. Runs in a thread of the event loop's."""
    size_bytes = 0
    while chunk := from_thread.run(reader.read):
        size_bytes += len(chunk)
        if size_bytes > intake.max_file_bytes:
            raise TooLargeError(f"at most {intake.max_file_bytes} bytes are accepted here", param=intake.file_field)
        yield chunk
    while (part := from_thread.run(reader.next_part)) is not None:
        form.fields.setdefault(part.name, from_thread.run(reader.read_text))


def _read_chunks(spool: IO[bytes]) -> Iterator[bytes]:
    while chunk := spool.read(CHUNK_BYTES):
        yield chunk
