"""Adapters: verified before anybody sees them, and downloaded only as they were verified.

The manifest is created only if absent, after every byte was read; so of two control planes that publish one attempt,
both write the same manifest, and one that died in between is simply repeated.
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.domain.adapter_checks import BadArtifactError
from orchestrator.domain.artifacts import Adapter, build_model_name
from orchestrator.domain.attempts import Attempt
from orchestrator.domain.errors import NotFoundError, ObjectsUnavailableError
from orchestrator.domain.failures import Failure, FailureKind
from orchestrator.domain.jobs import Job
from orchestrator.domain.models import ModelSourceKind
from orchestrator.domain.pages import Page
from orchestrator.domain.protocol import StoredFile, Succeeded
from orchestrator.domain.teams import Caller
from orchestrator.objects.client import Objects
from orchestrator.objects.layout import MANIFEST_NAME, adapter_prefix, attempt_prefix
from orchestrator.services.teams import require_member
from orchestrator.services.verification import Expected, NotFiniteError, VerifiedFile, clean_json, verify_files
from orchestrator.store import adapters, models, teams
from orchestrator.store.session import Store

MANIFEST_VERSION = 1
TAR_BLOCK_BYTES = 512


@dataclass(frozen=True, kw_only=True)
class Download:
    file: StoredFile
    url: str


@dataclass(frozen=True, kw_only=True)
class Tar:
    """`chunks` are exactly `size_bytes`; they end early, with an error, when an object is not what was verified."""

    adapter: Adapter
    size_bytes: int
    chunks: Iterator[bytes]


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """`presigned_seconds` is how long a download address lives."""

    store: Store
    objects: Objects
    presigned_seconds: int

    def verify(self, job: Job, attempt: Attempt, report: Succeeded) -> Adapter | Failure:
        """Check what the worker uploaded and write its manifest. No transaction is open meanwhile.

        Gives the same adapter however often it is called; its `created_at` is the attempt's. Raises
        ObjectsUnavailableError, after which it can be called again.
        """
        try:
            manifest = self._verify(job, attempt, report)
        except NotFiniteError as error:
            return Failure(kind=FailureKind.DIVERGED, message=f"The adapter cannot be published: {error.message}.")
        except BadArtifactError as error:
            return Failure(kind=FailureKind.BAD_ARTIFACT, message=f"The adapter did not pass: {error.message}.")
        return Adapter(
            adapter_id="adapter-" + attempt.attempt_id.removeprefix("attempt-"),
            name=manifest["name"],
            job_id=job.job_id,
            team_id=job.team_id,
            attempt_id=attempt.attempt_id,
            base_model=job.model_name,
            key_prefix=_prefix(attempt),
            files=tuple(
                StoredFile(**{key: entry[key] for key in StoredFile.model_fields}) for entry in manifest["files"]
            ),
            manifest=manifest,
            created_at=attempt.created_at,
        )

    def _verify(self, job: Job, attempt: Attempt, report: Succeeded) -> dict[str, Any]:
        assert job.plan is not None, "a job runs only with a plan"
        prefix = _prefix(attempt)
        if report.key_prefix != prefix:
            raise BadArtifactError("the worker has stored it under another attempt's prefix")
        with self.store.read() as tx:
            base = models.find_model(tx, job.model_name)
            team = teams.get_team(tx, job.team_id)
        names = {job.model_name} | ({base.location} if base and base.source is ModelSourceKind.HUB else set())
        expected = Expected(plan=job.plan, facts=base.facts if base else None, base_models=names)
        verified = verify_files(self.objects, prefix, report.files, expected)
        manifest = build_manifest(job, attempt, report, team_name=team.name, verified=verified)
        key, body = prefix + MANIFEST_NAME, manifest_bytes(manifest)
        is_new = self.objects.put_if_absent(key, body, content_type="application/json")
        if not is_new and self.objects.get(key) != body:
            raise BadArtifactError("there is a manifest already, and it is another one")
        return manifest

    def get(self, caller: Caller, adapter: str) -> Adapter:
        """By id, or by the fine-tuned model's name."""
        with self.store.read() as tx:
            if not adapter.startswith("ft:"):
                return adapters.get_adapter(tx, adapter, caller.visible_team_id)
            found = adapters.find_adapter_by_name(tx, adapter, caller.visible_team_id)
        if found is None:
            raise NotFoundError(f"No such model: {adapter}", code="model_not_found")
        return found

    def list(self, caller: Caller, *, limit: int = 20, after: str | None = None) -> Page[Adapter]:
        """Newest first."""
        with self.store.read() as tx:
            return adapters.list_adapters(tx, caller.visible_team_id, limit=limit, after=after)

    def manifest(self, caller: Caller, adapter: str) -> dict[str, Any]:
        return self.get(caller, adapter).manifest

    def download_urls(self, caller: Caller, adapter: str) -> tuple[Download, ...]:
        """An address for each file. Raises ObjectsUnavailableError when a file is not what was verified."""
        found = self.get(caller, adapter)
        self._check_objects(found)
        return tuple(
            Download(
                file=file,
                url=self.objects.presign_get(found.key_prefix + file.name, self.presigned_seconds, file.name),
            )
            for file in found.files
        )

    def open_tar(self, caller: Caller, adapter: str) -> Tar:
        """All files and the manifest as one uncompressed archive, built while it is read."""
        found = self.get(caller, adapter)
        self._check_objects(found)
        manifest = manifest_bytes(found.manifest)
        sizes = [file.size_bytes for file in found.files] + [len(manifest)]
        blocks = sum(1 + -(-size // TAR_BLOCK_BYTES) for size in sizes) + 2
        return Tar(adapter=found, size_bytes=blocks * TAR_BLOCK_BYTES, chunks=self._write_tar(found, manifest))

    def delete(self, caller: Caller, adapter: str) -> None:
        """Out of sight at once; the bytes are swept later. Raises NotFoundError, also when repeated, and ConflictError
        (model_in_use) while a job that has not ended continues from it."""
        require_member(caller)
        found = self.get(caller, adapter)
        with self.store.write() as tx:
            adapters.mark_deleted(tx, found.adapter_id, caller.visible_team_id)

    def _check_objects(self, adapter: Adapter) -> None:
        """The store's marks are those of the verified versions. A mark also changes when the bucket is moved to another
        server, so a new mark is no proof of damage: then the bytes decide."""
        etags = {entry["name"]: entry["etag"] for entry in adapter.manifest.get("files", ())}
        for file in adapter.files:
            key = adapter.key_prefix + file.name
            info = self.objects.head(key)
            if info is None:
                raise ObjectsUnavailableError(f"{file.name} of {adapter.name} is gone", code="object_missing")
            if info.size_bytes != file.size_bytes:
                raise ObjectsUnavailableError(f"{file.name} of {adapter.name} is damaged", code="object_damaged")
            if info.etag != etags.get(file.name):
                for _ in self.objects.stream_checked(key, size_bytes=file.size_bytes, sha256=file.sha256):
                    pass

    def _write_tar(self, adapter: Adapter, manifest: bytes) -> Iterator[bytes]:
        written_at = int(adapter.created_at.timestamp())
        for file in adapter.files:
            yield _tar_header(file.name, file.size_bytes, written_at)
            key = adapter.key_prefix + file.name
            yield from self.objects.stream_checked(key, size_bytes=file.size_bytes, sha256=file.sha256)
            yield bytes(-file.size_bytes % TAR_BLOCK_BYTES)
        yield _tar_header(MANIFEST_NAME, len(manifest), written_at)
        yield manifest + bytes(-len(manifest) % TAR_BLOCK_BYTES)
        yield bytes(2 * TAR_BLOCK_BYTES)


def build_manifest(
    job: Job, attempt: Attempt, report: Succeeded, *, team_name: str, verified: tuple[VerifiedFile, ...]
) -> dict[str, Any]:
    """What the adapter is and where it comes from. The same facts give the same manifest: it holds no moment.

    Raises BadArtifactError when what the worker said cannot be stored.
    """
    assert job.plan is not None, "a job runs only with a plan"
    return {
        "version": MANIFEST_VERSION,
        "format": "peft",
        "name": build_model_name(
            base_model=job.model_name, team_name=team_name, suffix=job.spec.suffix, job_id=job.job_id
        ),
        "job_id": job.job_id,
        "attempt_id": attempt.attempt_id,
        "attempt_number": attempt.number,
        "base_model": job.model_name,
        "parent": job.parent.lineage if job.parent else None,
        "spec": job.spec.model_dump(mode="json"),
        "plan": job.plan.model_dump(mode="json"),
        "step": report.step,
        "trained_tokens": report.trained_tokens,
        "metrics": clean_json(report.metrics, "metrics"),
        "lineage": clean_json(report.lineage, "lineage"),
        "files": [{**entry.file.model_dump(), "etag": entry.etag} for entry in verified],
    }


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """The one way in which a manifest is written, so that equal manifests are equal bytes."""
    return (json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _prefix(attempt: Attempt) -> str:
    return adapter_prefix(attempt_prefix(attempt.job_id, attempt.attempt_id, attempt.number))


def _tar_header(name: str, size_bytes: int, written_at: int) -> bytes:
    """One block: names are short, and GNU's format writes sizes of any length."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size_bytes, written_at, 0o644
    return entry.tobuf(tarfile.GNU_FORMAT)
