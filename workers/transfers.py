"""How do bytes get to and from the object store without a credential? By presigned POST and GET, retried in a budget.

A download appears under its name only when it is whole and its checksum is right. An upload names its key; the grant
allows keys below one prefix only, and the store refuses others.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import stamina

from orchestrator.domain.protocol import RemoteFile, StoredFile, UploadGrant
from workers.failures import StorageError

UPLOAD_BUDGET_SECONDS = 1800.0
"""Retries of one file. An outage of the store that is shorter than this costs no training."""
DOWNLOAD_BUDGET_SECONDS = 600.0
LONGEST_WAIT_SECONDS = 30.0
CHUNK_BYTES = 1024 * 1024
PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_TIMEOUT = httpx2.Timeout(60.0, connect=10.0)


def describe_file(path: Path, *, name: str | None = None) -> StoredFile:
    """Size and SHA-256 of a local file, read once in chunks."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return StoredFile(name=name or path.name, size_bytes=size, sha256=digest.hexdigest())


def upload_file(
    path: Path,
    key: str,
    *,
    get_grant: Callable[[], UploadGrant],
    client: httpx2.Client,
    budget_seconds: float = UPLOAD_BUDGET_SECONDS,
) -> None:
    """Store `path` under `key`, with the newest grant at each try. Raises StorageError when the budget is used up."""
    try:
        for attempt in stamina.retry_context(
            on=_is_passing, attempts=None, timeout=budget_seconds, wait_initial=0.2, wait_max=LONGEST_WAIT_SECONDS
        ):
            with attempt:
                _post(path, key, get_grant(), client)
    except (httpx2.HTTPError, _GrantExpiredError) as error:
        raise StorageError(f"the object store did not take {path.name}: {_reason(error)}") from error


def download_file(
    remote: RemoteFile,
    target: Path,
    *,
    client: httpx2.Client,
    budget_seconds: float = DOWNLOAD_BUDGET_SECONDS,
) -> None:
    """Fetch `remote` to `target`, which appears whole and checked or not at all. Raises StorageError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        for attempt in stamina.retry_context(
            on=_is_passing, attempts=None, timeout=budget_seconds, wait_initial=0.2, wait_max=LONGEST_WAIT_SECONDS
        ):
            with attempt:
                _get(remote, target, client)
    except (httpx2.HTTPError, CorruptError) as error:
        raise StorageError(f"the object store did not give {remote.name}: {_reason(error)}") from error


def new_client() -> httpx2.Client:
    return httpx2.Client(timeout=_TIMEOUT, follow_redirects=False)


class _GrantExpiredError(Exception):
    """The grant's time is over; a newer one may come."""


class CorruptError(ValueError):
    """The bytes are not those that were announced."""


def _is_passing(error: Exception) -> bool:
    """Whether trying again can help."""
    if isinstance(error, httpx2.HTTPStatusError):
        return error.response.status_code in PASSING_STATUSES
    return isinstance(error, httpx2.TransportError | _GrantExpiredError | CorruptError)


def _post(path: Path, key: str, grant: UploadGrant, client: httpx2.Client) -> None:
    """One multipart form: the grant's fields, the key, and the file last, streamed from the disk."""
    fields = {name: value for name, value in grant.fields.items() if name != "key"}
    with path.open("rb") as file:
        response = client.post(
            grant.url, data={**fields, "key": key}, files={"file": (path.name, file, "application/octet-stream")}
        )
    if response.status_code == 403 and grant.expires_at_unix <= time.time() + 1:
        raise _GrantExpiredError("the leave to upload has run out")
    response.raise_for_status()


def _get(remote: RemoteFile, target: Path, client: httpx2.Client) -> None:
    digest, size = hashlib.sha256(), 0
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file, client.stream("GET", remote.url) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes(CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        check_content(remote, size_bytes=size, sha256=digest.hexdigest())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def check_content(remote: RemoteFile, *, size_bytes: int, sha256: str) -> None:
    """Raise unless the bytes are those that `remote` announces; an empty checksum is not compared."""
    if size_bytes != remote.size_bytes:
        raise CorruptError(f"{size_bytes} bytes came instead of {remote.size_bytes}")
    if remote.sha256 and sha256 != remote.sha256:
        raise CorruptError("its SHA-256 differs from the one on record")


def _reason(error: Exception) -> str:
    """What may be shown: a presigned address is a secret, and the client's own texts hold it."""
    if isinstance(error, httpx2.HTTPStatusError):
        return f"status {error.response.status_code}"
    return str(error) if isinstance(error, _GrantExpiredError | CorruptError) else type(error).__name__
