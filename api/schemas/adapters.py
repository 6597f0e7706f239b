"""Published adapters: what they are, their files and where to fetch them."""

from typing import Literal

from api.schemas.wire import Identified, Wire, unix
from orchestrator.domain.artifacts import Adapter
from orchestrator.domain.protocol import StoredFile
from orchestrator.services.adapters import Download


class AdapterFile(Wire):
    name: str
    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, file: StoredFile) -> "AdapterFile":
        return cls(name=file.name, size_bytes=file.size_bytes, sha256=file.sha256)


class AdapterOut(Identified):
    """A complete and verified LoRA adapter in PEFT's format."""

    object: Literal["adapter"]
    name: str
    """The fine-tuned model's name."""
    job_id: str
    team_id: str
    base_model: str
    created_at: int
    size_bytes: int
    files: list[AdapterFile]

    @classmethod
    def of(cls, adapter: Adapter) -> "AdapterOut":
        return cls(
            id=adapter.adapter_id,
            object="adapter",
            name=adapter.name,
            job_id=adapter.job_id,
            team_id=adapter.team_id,
            base_model=adapter.base_model,
            created_at=unix(adapter.created_at),
            size_bytes=sum(file.size_bytes for file in adapter.files),
            files=[AdapterFile.of(file) for file in adapter.files],
        )


class AdapterDownload(Wire):
    name: str
    size_bytes: int
    sha256: str
    url: str
    """A presigned address: whoever has it can read this one file until it expires."""

    @classmethod
    def of(cls, download: Download) -> "AdapterDownload":
        file = download.file
        return cls(name=file.name, size_bytes=file.size_bytes, sha256=file.sha256, url=download.url)


class AdapterDownloads(Wire):
    object: Literal["list"]
    data: list[AdapterDownload]
    has_more: Literal[False]
    expires_in_seconds: int


class AdapterDeletedOut(Wire):
    id: str
    object: Literal["adapter"]
    deleted: Literal[True]
