"""Data sets and result files. A large file goes up in parts, so that a broken connection costs one part."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from api.client.results import Deleted, File, Page
from api.client.tail import read_pages
from api.client.transport import OnProgress, Transport

FILES = "/v1/files"
UPLOADS = "/v1/uploads"
PART_BYTES = 32 * 1024**2
WHOLE_BYTES = 64 * 1024**2
"""Files above this size are sent in parts."""


class Files:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, path: str | Path, *, purpose: str = "fine-tune", on_progress: OnProgress | None = None) -> File:
        """Upload a file from this machine; `on_progress` is called with the bytes sent and the bytes of the file."""
        path = Path(path)
        size_bytes = path.stat().st_size
        if size_bytes > WHOLE_BYTES:
            return self._upload_parts(path, purpose, on_progress)
        on_sent = partial(_tell, on_progress, size_bytes)
        sent = self._transport.post_file(FILES, path, field_name="file", fields={"purpose": purpose}, on_sent=on_sent)
        return File.model_validate(sent)

    def get(self, file_id: str) -> File:
        return File.model_validate(self._transport.get(f"{FILES}/{file_id}"))

    def list(self, *, limit: int = 100, after: str | None = None, purpose: str | None = None) -> Page[File]:
        """One page, newest first."""
        page = self._transport.get(FILES, {"limit": limit, "after": after, "purpose": purpose})
        return Page(tuple(File.model_validate(item) for item in page["data"]), page["has_more"])

    def all(self, *, purpose: str | None = None) -> Iterator[File]:
        """Every file, newest first."""
        return read_pages(self._transport, FILES, File, {"limit": 100, "purpose": purpose})

    def content(self, file_id: str) -> bytes:
        """The whole file, in memory."""
        response = self._transport.stream_bytes(f"{FILES}/{file_id}/content")
        try:
            return response.read()
        finally:
            response.close()

    def delete(self, file_id: str) -> Deleted:
        return Deleted.model_validate(self._transport.delete(f"{FILES}/{file_id}"))

    def _upload_parts(self, path: Path, purpose: str, on_progress: OnProgress | None) -> File:
        size_bytes = path.stat().st_size
        upload = self._transport.post(
            UPLOADS,
            {"bytes": size_bytes, "filename": path.name, "mime_type": "application/jsonl", "purpose": purpose},
        )
        part_ids = []
        with path.open("rb") as file:
            while chunk := file.read(PART_BYTES):
                on_sent = partial(_tell, on_progress, size_bytes, begin=file.tell() - len(chunk))
                part = self._transport.post_file(
                    f"{UPLOADS}/{upload['id']}/parts", chunk, field_name="data", on_sent=on_sent
                )
                part_ids.append(part["id"])
        done = self._transport.post(f"{UPLOADS}/{upload['id']}/complete", {"part_ids": part_ids})
        return File.model_validate(done["file"])


def _tell(on_progress: OnProgress | None, size_bytes: int, sent_bytes: int, *, begin: int = 0) -> None:
    """`sent_bytes` of what begins at byte `begin` of the file."""
    if on_progress is not None:
        on_progress(begin + sent_bytes, size_bytes)
