"""Base models: the pool's registry, and how a name in a job becomes one of its entries.

A name is looked for in the registry, then as a folder below an allowed root, then on the hub; what is found is
registered, with the revision that it has now, so that a job trains what was sized. An entry that unfinished jobs use
keeps its revision.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from orchestrator.domain.errors import ConflictError, HubUnavailableError, InvalidRequestError, UnavailableError
from orchestrator.domain.jobs import Job
from orchestrator.domain.models import ModelSourceKind
from orchestrator.domain.pool import BaseModel
from orchestrator.domain.protocol import ModelSource, RemoteFile
from orchestrator.domain.states import FINAL_JOB_STATES, JobState
from orchestrator.domain.teams import Caller
from orchestrator.objects.client import Objects
from orchestrator.services.hub import Hub, is_hub_id
from orchestrator.services.inspection import inspect_model
from orchestrator.services.model_readers import (
    S3_SCHEME,
    BucketReader,
    FolderReader,
    ModelReader,
    find_folder,
    parse_s3_location,
)
from orchestrator.services.teams import require_admin
from orchestrator.store import models
from orchestrator.store.job_lists import JobFilter, list_jobs
from orchestrator.store.session import Store, WriteTx

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,255}")
NAMES_SHOWN = 20
ANYWHERE = (Path("/"),)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Models:
    """`roots` are real paths. `hub` is None when the pool may not ask it. URLs for nodes live `input_url_seconds`."""

    store: Store
    objects: Objects
    roots: tuple[Path, ...]
    hub: Hub | None = field(default=None, repr=False)
    input_url_seconds: int
    _read_again: set[tuple[str, str]] = field(default_factory=set, repr=False)
    """Names and revisions whose config this process has looked for."""

    def add(self, caller: Caller, name: str, location: str) -> BaseModel:
        """Register a folder, an s3:// prefix of the pool's bucket, or a hub id, also @revision.

        An admin may name any folder by its absolute path; the roots bound what jobs name by themselves, and relative
        paths. A known name gets the new location.
        Raises InvalidRequestError, HubUnavailableError, or ConflictError (model_in_use) when an unfinished job uses
        another revision under this name.
        """
        require_admin(caller)
        if not _NAME.fullmatch(name) or name.startswith("ft:"):
            raise InvalidRequestError(
                f"{name!r} cannot be a model's name: use letters, digits and . _ - / @", param="name"
            )
        return self._register(name, self._find(location, ANYWHERE if Path(location).is_absolute() else self.roots))

    def get(self, caller: Caller, name: str) -> BaseModel:
        """Any caller may read the registry: the pool's base models are for all its teams."""
        with self.store.read() as tx:
            return models.get_model(tx, name)

    def list(self, caller: Caller) -> list[BaseModel]:
        with self.store.read() as tx:
            return models.list_models(tx)

    def delete(self, caller: Caller, name: str) -> None:
        """Forget the name, not the bytes. Raises ConflictError (model_in_use) while an unfinished job uses it."""
        require_admin(caller)
        with self.store.write() as tx:
            models.get_model(tx, name)
            _require_unused(tx, name)
            models.delete_model(tx, name)

    def resolve(self, name: str) -> BaseModel:
        """What a job means by its model. Registers it when it was not known.

        Raises InvalidRequestError (model_not_found) that says where it was looked for, or why what is there cannot be
        trained; HubUnavailableError when only the hub could tell.
        """
        with self.store.read() as tx:
            known = models.find_model(tx, name)
        if known is not None:
            return self._with_config(known)
        folder = find_folder(name, self.roots)
        if folder is not None:
            found = _Found(kind=ModelSourceKind.PATH, location=str(folder), reader=FolderReader(folder, self.roots))
            return self._register(name, found)
        if self.hub is not None and is_hub_id(name):
            try:
                return self._register(name, self._find(name, self.roots))
            except HubUnavailableError as error:
                raise HubUnavailableError(f"{error.message}. {self._describe_registry()}", param="model") from error
            except InvalidRequestError as error:
                if error.code != "model_not_found":
                    raise
        raise InvalidRequestError(
            f"{name!r} is not registered, {self._describe_search()}. {self._describe_registry()}.",
            code="model_not_found",
            param="model",
        )

    def source_for(self, job: Job) -> ModelSource:
        """Where workers find the job's model. Raises NotFoundError when it was removed from the registry."""
        with self.store.read() as tx:
            model = models.get_model(tx, job.model_name)
        return self.source(model)

    def source(self, model: BaseModel) -> ModelSource:
        """The message for a node: a path, presigned downloads, or a hub id with the pool's token."""
        common = {"name": model.name, "revision": model.revision}
        if model.source is ModelSourceKind.PATH:
            return ModelSource(kind="path", path=model.location, **common)
        if model.source is ModelSourceKind.HUB:
            token = self.hub.effective_token if self.hub else None
            return ModelSource(kind="hub", hub_id=model.location, hub_token=token, **common)
        prefix = parse_s3_location(model.location, self.objects.bucket)
        files = tuple(
            RemoteFile(
                name=file.path,
                url=self.objects.presign_get(prefix + file.path, self.input_url_seconds),
                size_bytes=file.size_bytes,
                sha256="",
            )
            for file in model.files
        )
        return ModelSource(kind="s3", files=files, **common)

    def _find(self, location: str, roots: tuple[Path, ...]) -> "_Found":
        """Look at the model, wherever it is. No transaction is open."""
        if location.startswith(S3_SCHEME):
            prefix = parse_s3_location(location, self.objects.bucket)
            where = f"{S3_SCHEME}{self.objects.bucket}/{prefix}"
            return _Found(kind=ModelSourceKind.S3, location=where, reader=BucketReader(self.objects, prefix))
        folder = find_folder(location, roots)
        if folder is not None:
            return _Found(kind=ModelSourceKind.PATH, location=str(folder), reader=FolderReader(folder, roots))
        if self.hub is not None and is_hub_id(location.partition("@")[0]):
            found = self.hub.open(location)
            return _Found(kind=ModelSourceKind.HUB, location=found.hub_id, reader=found.reader, commit=found.commit)
        raise InvalidRequestError(
            f"{location!r} is no model: it is {self._describe_search()}, and no {S3_SCHEME} prefix",
            code="model_not_found",
            param="location",
        )

    def _register(self, name: str, found: "_Found") -> BaseModel:
        try:
            inspected = inspect_model(found.reader, hash_content=found.commit is None)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{name}: {error.message}", code=error.code, param="model") from error
        revision = found.commit or inspected.content_sha256
        with self.store.write() as tx:
            known = models.find_model(tx, name)
            if known is not None and known.revision != revision:
                _require_unused(tx, name)
            return models.upsert_model(
                tx,
                BaseModel(
                    name=name,
                    source=found.kind,
                    location=found.location,
                    revision=revision,
                    facts=inspected.facts,
                    files=inspected.files,
                    created_at=tx.now(),
                    config=inspected.config,
                ),
            )

    def _with_config(self, model: BaseModel) -> BaseModel:
        """A model that an earlier release registered has no config. It is read again, once in the life of this process,
        and kept if what lies there is still what was registered; a job does not depend on it."""
        if model.config is not None or (model.name, model.revision) in self._read_again:
            return model
        self._read_again.add((model.name, model.revision))
        at = f"@{model.revision}" if model.source is ModelSourceKind.HUB else ""
        try:
            found = self._find(model.location + at, ANYWHERE)
            inspected = inspect_model(found.reader, hash_content=found.commit is None)
        except (InvalidRequestError, UnavailableError) as error:
            log.warning("config not read", model=model.name, error=error.message)
            return model
        if inspected.config is None or (found.commit or inspected.content_sha256) != model.revision:
            return model
        with self.store.write() as tx:
            models.record_config(tx, model, inspected.config)
        return replace(model, config=inspected.config)

    def _describe_search(self) -> str:
        """Where a name that is not registered was looked for, in vain."""
        roots = ", ".join(str(root) for root in self.roots)
        folder = f"no model folder below {roots}" if roots else "no folder, because no folder is allowed"
        return f"{folder}, no model of the hub" if self.hub else f"{folder}, and the hub is not asked here"

    def _describe_registry(self) -> str:
        with self.store.read() as tx:
            names = [model.name for model in models.list_models(tx)]
        more = f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        return f"Registered: {', '.join(names[:NAMES_SHOWN])}{more}" if names else "No base model is registered yet"


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A place that a model may be read from; `commit` pins one of the hub."""

    kind: ModelSourceKind
    location: str
    reader: ModelReader
    commit: str | None = None


def _require_unused(tx: WriteTx, name: str) -> None:
    unfinished = JobFilter(model=name, states=frozenset(JobState) - FINAL_JOB_STATES)
    page = list_jobs(tx, unfinished, limit=1)
    if page.items:
        raise ConflictError(
            f"Job {page.items[0].job_id} uses {name} and has not ended; use another name for the other revision.",
            code="model_in_use",
        )
