"""Files as OpenAI shows them."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from api.schemas.wire import Identified, Wire, find_unix, unix
from orchestrator.domain.artifacts import File
from orchestrator.domain.errors import InvalidRequestError

ANCHOR_FIELD, SECONDS_FIELD = "expires_after[anchor]", "expires_after[seconds]"


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
    """The form of an upload. Its parts may come in any order; other fields are ignored."""

    file: Annotated[str, Field(json_schema_extra={"format": "binary"})]
    """JSON Lines: one training example a line."""
    purpose: Literal["fine-tune"]
    """What the file is for."""
    expires_after_anchor: Annotated[Literal["created_at"] | None, Field(alias=ANCHOR_FIELD)] = None
    """From when on the seconds count."""
    expires_after_seconds: Annotated[int | None, Field(alias=SECONDS_FIELD, ge=3600, le=2_592_000)] = None
    """When the file is deleted by itself; never, when it is left out."""


def read_purpose(fields: Mapping[str, str]) -> str:
    if "purpose" not in fields:
        raise InvalidRequestError("purpose is required", code="missing_required_parameter", param="purpose")
    return fields["purpose"]


def read_expiry(fields: Mapping[str, str]) -> int | None:
    """The seconds after which the file expires. Raises InvalidRequestError for another anchor or no number."""
    seconds, anchor = fields.get(SECONDS_FIELD), fields.get(ANCHOR_FIELD)
    if anchor not in {None, "created_at"}:
        raise InvalidRequestError(f"{ANCHOR_FIELD} should be 'created_at', got {anchor!r}", param=ANCHOR_FIELD)
    if seconds is None:
        return None
    if not (seconds.isascii() and seconds.isdecimal() and len(seconds) < 10):
        raise InvalidRequestError(f"{SECONDS_FIELD} should be a number, got {seconds!r}", param=SECONDS_FIELD)
    return int(seconds)
