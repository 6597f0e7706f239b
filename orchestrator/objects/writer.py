"""How an object of unknown length is written: in parts, hashed and counted on the way, visible only when finished.

Until `finish` returns nothing is readable under the key; whoever leaves the `with` block without it leaves nothing.
"""

import hashlib
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.objects.faults import translated

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PART_BYTES = 8 * 1024**2
"""S3 takes parts from 5 MiB and at most 10,000 of them, so an object may have 78 GiB (S3 user guide, limits)."""


@dataclass(frozen=True, kw_only=True)
class WrittenObject:
    """`sha256` in hex, over exactly the bytes that were written; `etag` is the store's own mark."""

    key: str
    size_bytes: int
    sha256: str
    etag: str


class ObjectWriter:
    """Takes chunks of any size. Holds at most one part in memory; small objects go in one request."""

    def __init__(self, client: "S3Client", bucket: str, key: str, *, content_type: str) -> None:
        self._client = client
        self._bucket = bucket
        self._key = key
        self._content_type = content_type
        self._buffer = bytearray()
        self._sha256 = hashlib.sha256()
        self._upload_id: str | None = None
        self._parts: list[CompletedPartTypeDef] = []
        self._finished = False
        self.size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._finished:
            self.abort()

    def write(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        self.size_bytes += len(chunk)
        self._buffer += chunk
        while len(self._buffer) >= PART_BYTES:
            self._send_part(bytes(self._buffer[:PART_BYTES]))
            del self._buffer[:PART_BYTES]

    def finish(self) -> WrittenObject:
        """Make the object visible, at once and whole. Raises ObjectsUnavailableError; then nothing is visible."""
        with translated(f"writing {self._key}"):
            etag = self._put_whole() if self._upload_id is None else self._complete()
        self._finished = True
        return WrittenObject(key=self._key, size_bytes=self.size_bytes, sha256=self._sha256.hexdigest(), etag=etag)

    def abort(self) -> None:
        """Drop what was written. Parts that cannot be dropped now stay unseen, for `abort_stale_uploads`."""
        self._finished = True
        self._buffer.clear()
        if self._upload_id is None:
            return
        try:
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._key, UploadId=self._upload_id)
        except (BotoCoreError, ClientError):
            return

    def _send_part(self, body: bytes) -> None:
        with translated(f"writing {self._key}"):
            if self._upload_id is None:
                started = self._client.create_multipart_upload(
                    Bucket=self._bucket, Key=self._key, ContentType=self._content_type
                )
                self._upload_id = started["UploadId"]
            number = len(self._parts) + 1
            sent = self._client.upload_part(
                Bucket=self._bucket, Key=self._key, UploadId=self._upload_id, PartNumber=number, Body=body
            )
            self._parts.append({"PartNumber": number, "ETag": sent["ETag"]})

    def _put_whole(self) -> str:
        sent = self._client.put_object(
            Bucket=self._bucket, Key=self._key, Body=bytes(self._buffer), ContentType=self._content_type
        )
        return sent["ETag"].strip('"')

    def _complete(self) -> str:
        assert self._upload_id is not None
        if self._buffer:
            self._send_part(bytes(self._buffer))
        try:
            done = self._client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=self._key,
                UploadId=self._upload_id,
                MultipartUpload={"Parts": self._parts},
            )
        except ClientError:
            # The answer to a first try may have been lost: then the upload is gone and the object is there.
            if (etag := self._find_etag()) is None:
                raise
            return etag
        return done["ETag"].strip('"')

    def _find_etag(self) -> str | None:
        """The object's ETag if it is there with the size that was written; keys are written once, so it is ours."""
        try:
            head = self._client.head_object(Bucket=self._bucket, Key=self._key)
        except ClientError:
            return None
        return head["ETag"].strip('"') if head["ContentLength"] == self.size_bytes else None
