"""Published adapters: what they are, their files and where to fetch them."""

from typing import Any, Literal

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


class ParentOut(Wire):
    """What a job went on from: a fine-tuned model or one of its checkpoints. It may be deleted by now."""

    name: str
    job_id: str
    adapter_id: str | None
    checkpoint_id: str | None
    step: int
    """Of the job that made it."""
    weights_sha256: str

    @classmethod
    def find(cls, lineage: dict[str, Any] | None) -> "ParentOut | None":
        return None if lineage is None else cls(**lineage)


class AdapterOut(Identified):
    """A complete and verified LoRA adapter in PEFT's format."""

    object: Literal["adapter"]
    name: str
    """The fine-tuned model's name."""
    job_id: str
    team_id: str
    base_model: str
    parent: ParentOut | None
    """Null when its job began with fresh weights."""
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
            parent=ParentOut.find(adapter.manifest.get("parent")),
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
