"""What jobs leave in the object store: files, checkpoints, adapters."""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from orchestrator.domain.protocol import StoredFile


class FilePurpose(StrEnum):
    FINE_TUNE = "fine-tune"
    RESULTS = "fine-tune-results"


class FileStatus(StrEnum):
    UPLOADED = "uploaded"
    PROCESSED = "processed"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True)
class File:
    """`filename` is display text only. `report` is the validation report as it is shown, None before it exists."""

    file_id: str
    team_id: str
    created_at: datetime
    filename: str
    purpose: FilePurpose
    size_bytes: int
    sha256: str
    status: FileStatus
    status_details: str | None
    report: dict[str, Any] | None
    expires_at: datetime | None
    object_key: str


class UploadStatus(StrEnum):
    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, kw_only=True)
class Upload:
    upload_id: str
    team_id: str
    created_at: datetime
    expires_at: datetime
    filename: str
    mime_type: str
    purpose: FilePurpose
    size_bytes: int
    status: UploadStatus
    file_id: str | None
    file_expires_after_seconds: int | None = None
    """How long the file is kept from its creation on; for ever when None."""


@dataclass(frozen=True, kw_only=True)
class UploadPart:
    part_id: str
    upload_id: str
    created_at: datetime
    size_bytes: int
    object_key: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint: its manifest is in the object store under `key_prefix`."""

    checkpoint_id: str
    job_id: str
    attempt_id: str
    attempt_number: int
    step: int
    key_prefix: str
    files: tuple[StoredFile, ...]
    metrics: dict[str, float]
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A published adapter. The row is written last, so a row means complete and verified.

    `name` is the fine-tuned model's name on the wire: ft:<base>:<team>:<suffix>:<8 characters>.
    """

    adapter_id: str
    name: str
    job_id: str
    team_id: str
    attempt_id: str
    base_model: str
    key_prefix: str
    files: tuple[StoredFile, ...]
    manifest: dict[str, Any]
    created_at: datetime


def build_model_name(*, base_model: str, team_name: str, suffix: str | None, job_id: str) -> str:
    """The fine-tuned model's name, OpenAI's convention: ft:<base>:<team>:<suffix>:<8 characters>.

    It goes into paths of requests, so it holds no slash; the colons are ours. The last part is the random end of the
    job's id: the same job has the same name each time.
    """
    base = _plain(base_model.strip("/").replace("/", "--"))
    return f"ft:{base}:{_plain(team_name)}:{_plain(suffix or '')}:{job_id[-8:]}"


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)[-120:]
