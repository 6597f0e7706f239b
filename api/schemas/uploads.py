"""Uploads in parts, for files over the limit of one request."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from api.schemas.files import FileOut
from api.schemas.wire import Asked, Wire, unix
from orchestrator.domain.artifacts import File, Upload, UploadPart


class ExpiresAfter(Asked):
    """When the file is deleted by itself."""

    anchor: Literal["created_at"]
    """From when on the seconds count."""
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]
    """One hour to 30 days."""


class UploadCreate(Asked):
    """Announce a file; its parts follow."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"bytes": 1048576, "filename": "t.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}]
        }
    )

    bytes: Annotated[int, Field(ge=1)]
    """The size of the whole file; the parts must sum up to it."""
    filename: Annotated[str, Field(min_length=1, max_length=512)]
    """Shown, and nothing else."""
    mime_type: Annotated[str, Field(max_length=128)]
    """Kept, and not judged by."""
    purpose: str
    """fine-tune."""
    expires_after: ExpiresAfter | None = None
    """Never, when it is left out."""

    @property
    def expires_after_seconds(self) -> int | None:
        return None if self.expires_after is None else self.expires_after.seconds


class UploadComplete(Asked):
    model_config = ConfigDict(json_schema_extra={"examples": [{"part_ids": ["part_0199a7c4", "part_0199a7c5"]}]})

    part_ids: Annotated[list[str], Field(min_length=1, max_length=10_000)]
    """The parts in the order in which they make the file."""
    md5: Annotated[str, Field(pattern="^[0-9a-fA-F]{32}$")] | None = None
    """The MD5 of the whole file, in hex."""


class UploadOut(Wire):
    id: str
    object: Literal["upload"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileOut | None
    """The file, once the upload is completed."""

    @classmethod
    def of(cls, upload: Upload, file: File | None) -> "UploadOut":
        return cls(
            id=upload.upload_id,
            object="upload",
            bytes=upload.size_bytes,
            created_at=unix(upload.created_at),
            expires_at=unix(upload.expires_at),
            filename=upload.filename,
            purpose=upload.purpose.value,
            status=upload.status.value,
            file=None if file is None else FileOut.of(file),
        )


class PartForm(Wire):
    data: Annotated[str, Field(json_schema_extra={"format": "binary"})]
    """The part's bytes."""


class PartOut(Wire):
    id: str
    object: Literal["upload.part"]
    created_at: int
    upload_id: str

    @classmethod
    def of(cls, part: UploadPart) -> "PartOut":
        return cls(id=part.part_id, object="upload.part", created_at=unix(part.created_at), upload_id=part.upload_id)
