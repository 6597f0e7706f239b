"""From where a job's next attempt goes on: the newest checkpoint that is complete in the object store.

Invariant: only a manifest makes a checkpoint, and only if every file that it lists is there in full size. The object
store is asked, not the rows, because a worker may die after its manifest and before its report.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.domain.attempts import Attempt
from orchestrator.domain.errors import NotFoundError
from orchestrator.domain.protocol import CheckpointSource, RemoteFile, StoredFile
from orchestrator.objects.layout import MANIFEST_NAME, attempt_prefix, checkpoint_prefix, checkpoint_step

LARGEST_MANIFEST_BYTES = 1024**2

log = structlog.get_logger(__name__)


class CheckpointObjects(Protocol):
    """What is needed of `orchestrator.objects.client.Objects`."""

    def list(self, prefix: str) -> Iterable[tuple[str, int]]: ...
    def get(self, key: str) -> bytes: ...
    def presign_get(self, key: str, seconds: int) -> str: ...


class Manifest(BaseModel):
    """What a checkpoint's manifest must say; workers may say more."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: int
    step: int
    files: tuple[StoredFile, ...]
    metrics: dict[str, float] = {}


@dataclass(frozen=True, kw_only=True)
class FoundCheckpoint:
    attempt: Attempt
    key_prefix: str
    manifest: Manifest


def find_newest_checkpoint(objects: CheckpointObjects, earlier: Sequence[Attempt]) -> FoundCheckpoint | None:
    """The one that is furthest in training; of the same step, the later attempt's. Broken ones are passed over."""
    candidates = [candidate for attempt in earlier for candidate in _list_candidates(objects, attempt)]
    for candidate in sorted(candidates, key=lambda c: (c.step, c.attempt.number), reverse=True):
        manifest = _read_manifest(objects, candidate)
        if manifest is not None:
            return FoundCheckpoint(attempt=candidate.attempt, key_prefix=candidate.key_prefix, manifest=manifest)
    return None


def checkpoint_source(objects: CheckpointObjects, found: FoundCheckpoint, *, seconds: int) -> CheckpointSource:
    """Presigned downloads of all that the manifest lists."""
    files = tuple(
        RemoteFile(
            name=file.name,
            url=objects.presign_get(found.key_prefix + file.name, seconds),
            size_bytes=file.size_bytes,
            sha256=file.sha256,
        )
        for file in found.manifest.files
    )
    return CheckpointSource(step=found.manifest.step, files=files)


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A manifest and its neighbours: bytes by file name."""

    attempt: Attempt
    step: int
    key_prefix: str
    sizes: dict[str, int]


def _list_candidates(objects: CheckpointObjects, attempt: Attempt) -> Iterator[_Candidate]:
    own_prefix = attempt_prefix(attempt.job_id, attempt.attempt_id, attempt.number)
    by_step: dict[int, dict[str, int]] = {}
    for key, size_bytes in objects.list(own_prefix + "checkpoints/"):
        step = checkpoint_step(key)
        if step is not None:
            by_step.setdefault(step, {})[key.removeprefix(checkpoint_prefix(own_prefix, step))] = size_bytes
    for step, sizes in by_step.items():
        if MANIFEST_NAME in sizes:
            yield _Candidate(attempt=attempt, step=step, key_prefix=checkpoint_prefix(own_prefix, step), sizes=sizes)


def _read_manifest(objects: CheckpointObjects, candidate: _Candidate) -> Manifest | None:
    about = {"checkpoint": candidate.key_prefix}
    if candidate.sizes[MANIFEST_NAME] > LARGEST_MANIFEST_BYTES:
        log.warning("a checkpoint's manifest is too large", **about)
        return None
    try:
        manifest = Manifest.model_validate_json(objects.get(candidate.key_prefix + MANIFEST_NAME))
    except NotFoundError:
        return None
    except ValidationError as error:
        log.warning("a checkpoint's manifest cannot be read", problems=error.error_count(), **about)
        return None
    missing = [file.name for file in manifest.files if candidate.sizes.get(file.name) != file.size_bytes]
    if manifest.version != 1 or manifest.step != candidate.step or not manifest.files or missing:
        log.warning("a checkpoint is not complete", missing=missing, **about)
        return None
    return manifest
