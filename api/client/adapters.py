"""Adapters, and their download: each file is checked against its SHA-256 before it gets its name."""

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2

from api.client.errors import DownloadError
from api.client.jobs import JOBS
from api.client.results import Adapter, Deleted, Job, Page, RemoteFile, StoredFile
from api.client.transport import OnProgress, Transport

ADAPTERS = "/v1/adapters"
CHUNK_BYTES = 1024**2
MANIFEST_NAME = "manifest.json"


class Adapters:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, limit: int = 100, after: str | None = None) -> Page[Adapter]:
        """One page, newest first."""
        page = self._transport.get(ADAPTERS, {"limit": limit, "after": after})
        return Page(tuple(Adapter.model_validate(item) for item in page["data"]), page["has_more"])

    def get(self, adapter_id: str) -> Adapter:
        return Adapter.model_validate(self._transport.get(f"{ADAPTERS}/{adapter_id}"))

    def delete(self, adapter_id: str) -> Deleted:
        return Deleted.model_validate(self._transport.delete(f"{ADAPTERS}/{adapter_id}"))

    def manifest(self, adapter_id: str) -> dict[str, Any]:
        """Base model and revision, hashes of data and template, the whole spec, checksums, final metrics."""
        return dict(self._transport.get(f"{ADAPTERS}/{adapter_id}/manifest"))

    def download(
        self, job_or_adapter: str | Job | Adapter, directory: str | Path, *, on_progress: OnProgress | None = None
    ) -> Path:
        """Fetch an adapter, in PEFT's format, with its manifest; returns the folder.

        Files that are there and right are left alone, so a broken download is simply started again. The files come
        straight from the object store, or through the API when the object store cannot be reached from here.
        `on_progress` is called with the bytes that are there and the bytes of all files.
        Raises DownloadError when a file does not match its checksum.
        """
        adapter_id = self._adapter_id(job_or_adapter)
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        listed = [
            RemoteFile.model_validate(item) for item in self._transport.get(f"{ADAPTERS}/{adapter_id}/files")["data"]
        ]
        missing = [file for file in listed if not _is_there(folder, file)]
        count = _Counter(listed, missing, on_progress)
        try:
            for file in missing:
                self._fetch(file, folder, count)
        except httpx2.ConnectError:
            self._fetch_tar(adapter_id, folder, {file.name: file for file in missing}, count)
        manifest = json.dumps(self.manifest(adapter_id), indent=2)
        _write_whole(folder / MANIFEST_NAME, manifest.encode())
        return folder

    def _adapter_id(self, job_or_adapter: str | Job | Adapter) -> str:
        if isinstance(job_or_adapter, Adapter):
            return job_or_adapter.id
        job_id = job_or_adapter.id if isinstance(job_or_adapter, Job) else job_or_adapter
        if not job_id.startswith("ftjob-"):
            return job_id
        job = Job.model_validate(self._transport.get(f"{JOBS}/{job_id}"))
        if job.adapter_id is None:
            raise DownloadError(f"{job_id} has no adapter: it is {job.status}")
        return job.adapter_id

    def _fetch(self, file: RemoteFile, folder: Path, count: "_Counter") -> None:
        """Download one file, going on where an earlier try stopped."""
        part = folder / f".{file.name}.part"
        have = part.stat().st_size if part.exists() else 0
        headers = {"range": f"bytes={have}-"} if 0 < have < file.size_bytes else {}
        with self._transport.open_http.stream("GET", file.url, headers=headers) as response:
            if response.is_error:
                raise DownloadError(f"{file.name}: the object store answered with status {response.status_code}")
            with part.open("ab" if response.status_code == 206 else "wb") as target:
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    target.write(chunk)
                    count.has(file, target.tell())
        _accept(part, folder, file)

    def _fetch_tar(self, adapter_id: str, folder: Path, wanted: dict[str, RemoteFile], count: "_Counter") -> None:
        response = self._transport.stream_bytes(f"{ADAPTERS}/{adapter_id}/tar")
        try:
            with tarfile.open(mode="r|", fileobj=io.BufferedReader(_Reader(response))) as tar:
                for member in tar:
                    name = Path(member.name).name
                    source = tar.extractfile(member) if member.isfile() else None
                    if source is None or name not in wanted:
                        continue
                    part = folder / f".{name}.part"
                    with part.open("wb") as target:
                        while chunk := source.read(CHUNK_BYTES):
                            target.write(chunk)
                    _accept(part, folder, wanted.pop(name))
        finally:
            response.close()
        if wanted:
            raise DownloadError(f"the stream ended without {', '.join(sorted(wanted))}")


class _Counter:
    """How much of all files is there, told whenever it grows."""

    def __init__(self, files: Sequence[StoredFile], missing: Sequence[StoredFile], told: OnProgress | None) -> None:
        self._sizes = {file.name: file.size_bytes for file in files}
        self._there = self._sizes | {file.name: 0 for file in missing}
        self._told = told

    def has(self, file: StoredFile, size_bytes: int) -> None:
        self._there[file.name] = size_bytes
        if self._told is not None:
            self._told(sum(self._there.values()), sum(self._sizes.values()))


class _Reader(io.RawIOBase):
    """The body of a response as a file, for tarfile."""

    def __init__(self, response: httpx2.Response) -> None:
        self._chunks = response.iter_bytes(CHUNK_BYTES)
        self._held = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        self._held = self._held or next(self._chunks, b"")
        taken = self._held[: len(view)]
        view[: len(taken)] = taken
        self._held = self._held[len(taken) :]
        return len(taken)


def check_name(name: str) -> str:
    """The name itself when it is a plain file name; a name that leaves the folder is refused."""
    if not name or name != Path(name).name or name.startswith("."):
        raise DownloadError(f"refused a file called {name!r}")
    return name


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_there(folder: Path, file: StoredFile) -> bool:
    path = folder / check_name(file.name)
    return path.is_file() and path.stat().st_size == file.size_bytes and sha256_of(path) == file.sha256


def _accept(part: Path, folder: Path, file: StoredFile) -> None:
    """Give a complete file its name; one that is not right is thrown away."""
    found = sha256_of(part)
    if found != file.sha256:
        part.unlink()
        raise DownloadError(f"{file.name} does not match its checksum: expected {file.sha256}, got {found}; try again")
    part.replace(folder / file.name)


def _write_whole(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
