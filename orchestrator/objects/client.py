"""The object store: any S3 server, one bucket. The only place with boto3, safe to use from many threads.

Every call may raise ObjectsUnavailableError; reading what is not there raises NotFoundError (object_missing). An
object is visible whole or not at all, and `put_if_absent` is the only way to write that never replaces.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from orchestrator.domain.errors import NotFoundError, ObjectsUnavailableError
from orchestrator.domain.protocol import UploadGrant
from orchestrator.objects.faults import CONFLICT_CODES, MISSING_CODES, PRECONDITION_CODES, error_code, translated
from orchestrator.objects.reader import ObjectStream, checked_chunks
from orchestrator.objects.writer import ObjectWriter

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

CONNECT_SECONDS, READ_SECONDS, PROBE_SECONDS = 5.0, 60.0, 2.0
BINARY = "application/octet-stream"
CONFLICT_TRIES = 6
"""S3 answers 409 when two conditional writes of one key meet; the loser is told to try again."""
MAX_POST_BYTES = 5 * 1000**3
"""The largest object that S3 takes in one request."""
DELETE_BATCH = 1000
"""The most keys that one DeleteObjects request may name."""


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    size_bytes: int
    etag: str


class ListedObject(NamedTuple):
    key: str
    size_bytes: int


class Objects:
    """One bucket. An empty endpoint means AWS; empty keys mean the machine's own AWS credentials.

    `public_endpoint` is what presigned URLs name, when workers and users reach the server under another address.
    """

    def __init__(
        self,
        endpoint: str,
        region: str,
        *,
        bucket: str,
        access_key: str,
        secret_key: str,
        public_endpoint: str = "",
    ) -> None:
        self.bucket = bucket
        self._region = region
        self._session = boto3.session.Session(
            aws_access_key_id=access_key or None, aws_secret_access_key=secret_key or None, region_name=region
        )
        self._client = _connect(self._session, endpoint)
        self._probe = _connect(self._session, endpoint, tries=1, timeout_seconds=PROBE_SECONDS)
        self._signer = _connect(self._session, public_endpoint or endpoint)

    def ensure_bucket(self) -> None:
        """Create the bucket unless it is there."""
        with translated(f"creating bucket {self.bucket}"):
            try:
                self._client.head_bucket(Bucket=self.bucket)
            except ClientError as error:
                if error_code(error) not in MISSING_CODES | {"NoSuchBucket"}:
                    raise
                self._create_bucket()

    def ping(self) -> None:
        """One quick question without retries. Raises ObjectsUnavailableError also when the bucket is missing."""
        try:
            with translated(f"looking for bucket {self.bucket}"):
                self._probe.head_bucket(Bucket=self.bucket)
        except NotFoundError as error:
            raise ObjectsUnavailableError(f"there is no bucket {self.bucket}") from error

    def put(self, key: str, body: bytes, *, content_type: str = BINARY) -> None:
        """Write, replacing what is there."""
        with translated(f"writing {key}"):
            self._client.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType=content_type)

    def put_if_absent(self, key: str, body: bytes, *, content_type: str = BINARY) -> bool:
        """Write only when the key is free. False when it is taken, which may be by an own try whose answer was lost."""
        with translated(f"writing {key}"):
            for tries_left in reversed(range(CONFLICT_TRIES)):
                try:
                    self._client.put_object(
                        Bucket=self.bucket, Key=key, Body=body, ContentType=content_type, IfNoneMatch="*"
                    )
                except ClientError as error:
                    if error_code(error) in PRECONDITION_CODES:
                        return False
                    if error_code(error) not in CONFLICT_CODES or not tries_left:
                        raise
                    time.sleep(0.05)
                else:
                    return True
        raise AssertionError("the last try returned or raised")

    def open_upload(self, key: str, *, content_type: str = BINARY) -> ObjectWriter:
        """A writer for a stream; use it in a `with` block and call `finish`, or nothing is kept."""
        return ObjectWriter(self._client, self.bucket, key, content_type=content_type)

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """The object, or `length` bytes of it; fewer when it ends before. `length` must not be 0."""
        if not start and length is None:
            return b"".join(self.stream(key))
        end = "" if length is None else start + length - 1
        with translated(f"reading {key}"):
            answer = self._client.get_object(Bucket=self.bucket, Key=key, Range=f"bytes={start}-{end}")
            return answer["Body"].read()

    def stream(self, key: str, start: int = 0) -> ObjectStream:
        """Chunks from byte `start` on. It is open on return, so a missing object raises here."""
        return ObjectStream(self._client, self.bucket, key, start=start)

    def stream_checked(self, key: str, *, size_bytes: int, sha256: str) -> Iterator[bytes]:
        """Chunks of the whole object, of which the last comes only if all are those on record. Open on return."""
        return checked_chunks(self.stream(key), size_bytes=size_bytes, sha256=sha256)

    def head(self, key: str) -> ObjectInfo | None:
        with translated(f"looking for {key}"):
            try:
                answer = self._client.head_object(Bucket=self.bucket, Key=key)
            except ClientError as error:
                if error_code(error) in MISSING_CODES:
                    return None
                raise
        return ObjectInfo(size_bytes=answer["ContentLength"], etag=answer["ETag"].strip('"'))

    def list(self, prefix: str) -> Iterator[ListedObject]:
        """Every object whose key starts with `prefix`, by key."""
        with translated(f"listing {prefix}"):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                for item in page.get("Contents", ()):
                    yield ListedObject(item["Key"], item["Size"])

    def delete(self, key: str) -> None:
        """Safe to repeat."""
        with translated(f"deleting {key}"):
            self._client.delete_object(Bucket=self.bucket, Key=key)

    def delete_prefix(self, prefix: str) -> int:
        """Delete every object below a prefix that ends in '/', and return how many there were. Safe to repeat."""
        if not prefix.endswith("/") or prefix.startswith("/"):
            raise ValueError(f"{prefix!r} is no folder of the bucket")
        keys = [item.key for item in self.list(prefix)]
        with translated(f"deleting {prefix}"):
            for first in range(0, len(keys), DELETE_BATCH):
                batch = keys[first : first + DELETE_BATCH]
                answer = self._client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True}
                )
                if failed := answer.get("Errors"):
                    raise ObjectsUnavailableError(f"deleting {prefix}: {len(failed)} objects could not be deleted")
        return len(keys)

    def abort_stale_uploads(self, *, older_than_seconds: int) -> int:
        """Drop the parts of uploads that nobody finished, and return how many uploads there were."""
        before = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        aborted = 0
        with translated("dropping unfinished uploads"):
            for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket):
                for item in page.get("Uploads", ()):
                    if item["Initiated"] < before:
                        self._client.abort_multipart_upload(
                            Bucket=self.bucket, Key=item["Key"], UploadId=item["UploadId"]
                        )
                        aborted += 1
        return aborted

    def presign_get(self, key: str, seconds: int, filename: str | None = None) -> str:
        """A URL that reads this one object until it expires, always as a download and never shown by a browser."""
        disposition = "attachment"
        if filename is not None:
            disposition += f"; filename*=UTF-8''{quote(filename, safe='', errors='replace')}"
        with translated(f"signing {key}"):
            return self._signer.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self.bucket,
                    "Key": key,
                    "ResponseContentDisposition": disposition,
                    "ResponseContentType": BINARY,
                },
                ExpiresIn=seconds,
            )

    def presign_post(self, prefix: str, seconds: int, *, max_bytes: int = MAX_POST_BYTES) -> UploadGrant:
        """Leave to write, and to replace, objects below `prefix` by HTTP POST. The uploader adds the field `key`."""
        expires_at_unix = int(time.time()) + seconds
        with translated(f"signing {prefix}"):
            signed = self._signer.generate_presigned_post(
                self.bucket,
                prefix + "${filename}",
                Conditions=[["content-length-range", 0, max_bytes]],
                ExpiresIn=seconds,
            )
        fields = {name: value for name, value in signed["fields"].items() if name != "key"}
        return UploadGrant(url=signed["url"], fields=fields, key_prefix=prefix, expires_at_unix=expires_at_unix)

    def close(self) -> None:
        for client in (self._client, self._probe, self._signer):
            client.close()

    def _create_bucket(self) -> None:
        try:
            if self._region == "us-east-1":
                self._client.create_bucket(Bucket=self.bucket)
            else:
                self._client.create_bucket(
                    Bucket=self.bucket,
                    CreateBucketConfiguration={"LocationConstraint": self._region},  # type: ignore[typeddict-item]
                )
        except ClientError as error:
            if error_code(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise


def _connect(
    session: boto3.session.Session, endpoint: str, *, tries: int = 4, timeout_seconds: float | None = None
) -> "S3Client":
    return session.client(
        "s3",
        endpoint_url=endpoint or None,
        config=Config(
            signature_version="s3v4",
            connect_timeout=timeout_seconds or CONNECT_SECONDS,
            read_timeout=timeout_seconds or READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": tries},
            max_pool_connections=32,
            tcp_keepalive=True,
            s3={"addressing_style": "path"},
            # Bodies are covered by the signature's SHA-256; trailing CRCs, boto3's default, break on some servers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
