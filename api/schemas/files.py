"""Files as OpenAI shows them."""

from typing import Literal

from api.schemas.wire import Identified, Wire, find_unix, unix
from orchestrator.domain.artifacts import File


class FileOut(Identified):
    """A data set, or the results of a job."""

    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: Literal["fine-tune", "fine-tune-results"]
    status: Literal["uploaded", "processed", "error"]
    """`processed` once every row was checked; `error` when one is wrong."""
    status_details: str | None
    """The first problem that the check found, with its line."""

    @classmethod
    def of(cls, file: File) -> "FileOut":
        return cls(
            id=file.file_id,
            object="file",
            bytes=file.size_bytes,
            created_at=unix(file.created_at),
            expires_at=find_unix(file.expires_at),
            filename=file.filename,
            purpose=file.purpose.value,
            status=file.status.value,
            status_details=file.status_details,
        )


class FileDeletedOut(Wire):
    id: str
    object: Literal["file"]
    deleted: Literal[True]


class FileForm(Wire):
    """The form of an upload, as the OpenAPI document shows it; it is read as a stream, in any order of its parts."""

    file: str
    """JSON Lines: one training example a line."""
    purpose: Literal["fine-tune"]
