"""How an object is read: chunk by chunk, going on where it was when the connection breaks.

All chunks are of one version of the object: going on asks for the ETag that the first answer had.
"""

import hashlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from orchestrator.domain.errors import ObjectsUnavailableError
from orchestrator.objects.faults import PRECONDITION_CODES, error_code, translated

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3.client import S3Client

CHUNK_BYTES = 1024**2
BROKEN_READS = 4
"""Breaks in a row, without one byte between them, that are forgiven; one second is waited in all."""
FIRST_PAUSE_SECONDS = 0.1


class ObjectStream:
    """An iterator over the bytes from `start` to the end. It is open when the constructor returns.

    `size_bytes` is the size of the whole object. Close it, or read it to its end.
    """

    def __init__(self, client: "S3Client", bucket: str, key: str, *, start: int = 0) -> None:
        self._client = client
        self._bucket = bucket
        self._key = key
        self._at = start
        self._breaks = 0
        self.etag = ""
        self.size_bytes = 0
        with translated(f"reading {key}"):
            self._body = self._open()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        while True:
            try:
                chunk = self._body.read(CHUNK_BYTES)
            except (BotoCoreError, HTTPClientError) as error:
                self._reopen(error)
                continue
            if chunk:
                self._breaks = 0
                self._at += len(chunk)
                return chunk
            self.close()
            if self._at != self.size_bytes:
                raise ObjectsUnavailableError(f"reading {self._key}: it ended after {self._at} bytes")
            raise StopIteration

    def close(self) -> None:
        self._body.close()

    def _open(self) -> "StreamingBody":
        """Ask for the bytes from where we are; the first time any version will do, afterwards only the same."""
        if not self._at and not self.etag:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key)
        elif not self.etag:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key, Range=f"bytes={self._at}-")
        else:
            answer = self._client.get_object(
                Bucket=self._bucket, Key=self._key, Range=f"bytes={self._at}-", IfMatch=self.etag
            )
        self.etag = answer["ETag"].strip('"')
        self.size_bytes = self._at + answer["ContentLength"]
        return answer["Body"]

    def _reopen(self, broken: Exception) -> None:
        self._body.close()
        self._breaks += 1
        if self._breaks > BROKEN_READS:
            raise ObjectsUnavailableError(f"reading {self._key}: the connection broke again and again") from broken
        time.sleep(FIRST_PAUSE_SECONDS * 2 ** (self._breaks - 1))
        try:
            with translated(f"reading {self._key}"):
                self._body = self._open()
        except ObjectsUnavailableError as error:
            if isinstance(error.__cause__, ClientError) and error_code(error.__cause__) in PRECONDITION_CODES:
                raise ObjectsUnavailableError(f"reading {self._key}: it was replaced while it was read") from broken
            raise


def checked_chunks(stream: ObjectStream, *, size_bytes: int, sha256: str) -> Iterator[bytes]:
    """The stream's chunks; the last one only if all bytes together are those on record.

    So whoever counts the bytes never takes a damaged object for a whole one. Raises ObjectsUnavailableError
    (object_damaged). Closing the generator closes the stream.
    """
    digest, seen, held = hashlib.sha256(), 0, b""
    try:
        for chunk in stream:
            digest.update(chunk)
            seen += len(chunk)
            if held:
                yield held
            held = chunk
        if seen != size_bytes or digest.hexdigest() != sha256:
            raise ObjectsUnavailableError("the stored bytes are not those that were checked", code="object_damaged")
        if held:
            yield held
    finally:
        stream.close()
