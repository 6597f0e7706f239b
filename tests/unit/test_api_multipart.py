"""The multipart reader: bounded, in any order of parts, and honest about bodies that end early."""

import hashlib
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest
from anyio import CapacityLimiter
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from api import multipart
from api.multipart import CHUNK_BYTES, MAX_FIELD_BYTES, Form, Intake, MultipartReader, receive_file
from orchestrator.domain.errors import InvalidRequestError, TooLargeError, TunepoolError

BOUNDARY = "----boundary"
HEADERS = [(b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode())]


def _field(name: str, value: bytes) -> bytes:
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"


def _file(name: str, filename: str, value: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
    return head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + value + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
DATA = bytes(range(256)) * 3000 + b"\r\n--" + BOUNDARY.encode()[:-1] + b"\r\n"
PURPOSE = _field("purpose", b"fine-tune")


def _request(body: bytes, *, chunk: int = 1000, gone: bool = False, headers: object = HEADERS) -> Request:
    """A request whose body arrives in chunks; with `gone` the client leaves after them."""
    messages: list[Message] = [
        {"type": "http.request", "body": body[start : start + chunk], "more_body": True}
        for start in range(0, len(body), chunk)
    ]
    messages.append({"type": "http.disconnect"} if gone else {"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Message:
        return messages.pop(0)

    return Request({"type": "http", "method": "POST", "headers": headers, "path": "/"}, receive)


def _store(form: Form, chunks: Iterator[bytes]) -> tuple[str, dict[str, str], str, int]:
    digest, largest = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        largest = max(largest, len(chunk))
    return form.filename, dict(form.fields), digest.hexdigest(), largest


def _receive(request: Request, *, limit: int = 10_000_000, needs: tuple[str, ...] = ("purpose",)) -> object:
    async def run() -> object:
        intake = Intake(file_field="file", needed_fields=needs, max_file_bytes=limit, limiter=CapacityLimiter(1))
        return await receive_file(request, intake, _store)

    return anyio.run(run)


@pytest.mark.parametrize("chunk", [1, 7, 1000, 10_000_000])
@pytest.mark.parametrize("order", ["fields first", "file first", "fields on both sides"])
def test_a_file_arrives_whole_however_it_is_cut(order: str, chunk: int) -> None:
    data = DATA if chunk > 7 else DATA[-3000:]
    file, late = _file("file", "a b.jsonl", data), _field("expires_after[seconds]", b"3600")
    body = {
        "fields first": PURPOSE + late + file,
        "file first": file + PURPOSE + late,
        "fields on both sides": PURPOSE + file + late,
    }[order]
    filename, fields, digest, largest = _receive(_request(body + END, chunk=chunk))  # type: ignore[misc]
    assert filename == "a b.jsonl"
    assert fields == {"purpose": "fine-tune", "expires_after[seconds]": "3600"}
    assert digest == hashlib.sha256(data).hexdigest()
    assert largest <= CHUNK_BYTES + chunk


@pytest.mark.parametrize("name", ["../../etc/passwd", "ünïcode-文件.jsonl", 'quo\\"te', "", "a;b=c.jsonl"])
def test_a_filename_arrives_as_it_was_sent(name: str) -> None:
    filename, *_ = _receive(_request(PURPOSE + _file("file", name, b"x") + END))  # type: ignore[misc]
    assert filename == name.replace('\\"', '"')


def test_an_empty_file_has_no_chunks() -> None:
    *_, digest, largest = _receive(_request(PURPOSE + _file("file", "f", b"") + END))  # type: ignore[misc]
    assert (digest, largest) == (hashlib.sha256(b"").hexdigest(), 0)


def test_of_a_field_that_is_given_twice_the_first_counts() -> None:
    body = PURPOSE + _field("purpose", b"evals") + _file("file", "f", b"x") + END
    _, fields, *_ = _receive(_request(body))  # type: ignore[misc]
    assert fields == {"purpose": "fine-tune"}


@pytest.mark.parametrize(
    ("body", "error", "code"),
    [
        (PURPOSE + END, InvalidRequestError, "missing_required_parameter"),
        (_field("file", b"text") + END, InvalidRequestError, "missing_required_parameter"),
        (PURPOSE + _file("file", "f", DATA[:1500]), InvalidRequestError, "invalid_multipart"),
        (PURPOSE + _file("file", "f", b"x"), InvalidRequestError, "invalid_multipart"),
        (b"", InvalidRequestError, "invalid_multipart"),
        (b"no boundary here", InvalidRequestError, "invalid_multipart"),
        (_field("purpose", b"\xff\xfe") + END, InvalidRequestError, "invalid_multipart"),
        (_field("purpose", b"x" * (MAX_FIELD_BYTES + 1)) + END, TooLargeError, "too_large"),
        (b"".join(_field(f"f{n}", b"") for n in range(70)) + END, TooLargeError, "too_large"),
        (PURPOSE + _file("file", "f", b"x" * 2001) + END, TooLargeError, "too_large"),
        (_file("file", "f", b"x" * 2001) + PURPOSE + END, TooLargeError, "too_large"),
    ],
)
def test_a_bad_form_is_refused(body: bytes, error: type[TunepoolError], code: str) -> None:
    with pytest.raises(error) as caught:
        _receive(_request(body), limit=2000)
    assert caught.value.code == code


def test_a_file_of_exactly_the_limit_is_taken() -> None:
    *_, largest = _receive(_request(PURPOSE + _file("file", "f", b"x" * 2000) + END), limit=2000)  # type: ignore[misc]
    assert largest == 2000


def test_a_size_that_is_announced_is_judged_before_the_body() -> None:
    request = _request(b"", headers=[*HEADERS, (b"content-length", b"99999999999")])
    with pytest.raises(TooLargeError):
        _receive(request)


@pytest.mark.parametrize("kind", [b"application/json", b"multipart/form-data", b"multipart/mixed; boundary=x", b""])
def test_another_content_type_is_refused(kind: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        _receive(_request(END, headers=[(b"content-type", kind)]))
    assert caught.value.code == "unsupported_content_type"


@pytest.mark.parametrize("needs", [("purpose",), ("purpose", "something later")])
def test_a_client_that_leaves_makes_the_store_fail(needs: tuple[str, ...]) -> None:
    with pytest.raises(ClientDisconnect):
        _receive(_request(PURPOSE + _file("file", "f", DATA)[:5000], gone=True), needs=needs)


def test_a_client_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "STALL_SECONDS", 0.01)

    async def silence() -> AsyncIterator[bytes]:
        await anyio.sleep_forever()
        yield b""

    async def run() -> None:
        reader = MultipartReader(HEADERS[0][1].decode(), silence(), max_body_bytes=1000)
        await reader.next_part()

    with pytest.raises(InvalidRequestError) as caught:
        anyio.run(run)
    assert caught.value.code == "upload_stalled"
