"""Adapters against a real database and a real object store: verified, published once, downloaded as verified."""

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import httpx2
import numpy as np
import pytest
from safetensors.numpy import save

from orchestrator.domain.artifacts import Adapter
from orchestrator.domain.attempts import Attempt
from orchestrator.domain.errors import ForbiddenError, NotFoundError, ObjectsUnavailableError
from orchestrator.domain.failures import Failure, FailureKind
from orchestrator.domain.jobs import Job
from orchestrator.domain.models import ModelSourceKind
from orchestrator.domain.pool import BaseModel
from orchestrator.domain.protocol import StoredFile, Succeeded
from orchestrator.domain.teams import Caller, Role
from orchestrator.objects.client import Objects
from orchestrator.objects.layout import MANIFEST_NAME, adapter_prefix, attempt_prefix
from orchestrator.services.adapters import Adapters, manifest_bytes
from orchestrator.store import adapters as adapter_rows
from orchestrator.store import jobs, models
from orchestrator.store.session import Store
from tests.support.adapters import FACTS, describe, make_adapter_files, make_plan, make_weights, upload
from tests.support.callers import as_role, make_caller
from tests.support.rows import add_attempt, add_queued_job
from tests.support.storage import StorageServer

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
Files = dict[str, bytes]


@dataclass
class Trained:
    """An attempt whose files are uploaded, and what it reported."""

    service: Adapters
    caller: Caller
    job: Job
    attempt: Attempt
    prefix: str
    files: Files

    def upload(self, changes: dict[str, bytes | None] | None = None) -> Succeeded:
        kept = {name: body for name, body in {**self.files, **(changes or {})}.items() if body is not None}
        return self.report(upload(self.service.objects, self.prefix, kept))

    def report(self, said: tuple[StoredFile, ...], **changes: Any) -> Succeeded:
        values: dict[str, Any] = {"step": 9, "trained_tokens": 900, "metrics": {"train_loss": 1.5}, "lineage": {"a": 1}}
        return Succeeded(key_prefix=self.prefix, files=said, **{**values, **changes})

    def verify(self, report: Succeeded) -> Adapter | Failure:
        return self.service.verify(self.job, self.attempt, report)

    def refused(self, report: Succeeded) -> str:
        """The message with which it is refused; nothing is published then."""
        failure = self.verify(report)
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.BAD_ARTIFACT
        assert self.service.objects.head(self.prefix + MANIFEST_NAME) is None
        return failure.message


@pytest.fixture
def trained(sqlite_store: Store, objects: Objects) -> Trained:
    caller = make_caller(sqlite_store, name="team-a")
    with sqlite_store.write() as tx:
        job = add_queued_job(tx, caller.team_id, suffix="tickets")
        attempt = add_attempt(tx, job)
        base = BaseModel(
            name="smol",
            source=ModelSourceKind.HUB,
            location="hub/smol",
            revision="1",
            facts=FACTS,
            files=(),
            created_at=tx.now(),
        )
        models.upsert_model(tx, base)
        job = replace(jobs.get_job(tx, job.job_id), plan=make_plan())
    service = Adapters(store=sqlite_store, objects=objects, presigned_seconds=60)
    prefix = adapter_prefix(attempt_prefix(job.job_id, attempt.attempt_id, attempt.number))
    return Trained(service, caller, job, attempt, prefix, make_adapter_files())


@pytest.fixture
def published(trained: Trained) -> Adapter:
    adapter = trained.verify(trained.upload())
    assert isinstance(adapter, Adapter)
    with trained.service.store.write() as tx:
        return adapter_rows.insert_adapter(tx, adapter)


def test_a_good_adapter_is_verified_and_its_manifest_written(trained: Trained, objects: Objects) -> None:
    report = trained.upload()
    adapter = trained.verify(report)
    assert isinstance(adapter, Adapter)
    assert adapter.name == f"ft:smol:team-a:tickets:{trained.job.job_id[-8:]}"
    assert (adapter.job_id, adapter.base_model, adapter.key_prefix) == (trained.job.job_id, "smol", trained.prefix)
    assert {file.name: file for file in adapter.files} == {file.name: file for file in report.files}
    stored = objects.get(trained.prefix + MANIFEST_NAME)
    assert json.loads(stored) == adapter.manifest
    assert adapter.manifest["plan"]["lora_r"] == 4
    assert adapter.manifest["metrics"] == {"train_loss": 1.5}
    for entry in adapter.manifest["files"]:
        assert entry["sha256"] == hashlib.sha256(trained.files[entry["name"]]).hexdigest()


def test_verifying_again_gives_the_same(trained: Trained, objects: Objects) -> None:
    report = trained.upload()
    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(lambda _: trained.verify(report), range(3))
    assert isinstance(first, Adapter)
    assert others == [first, first]
    assert objects.get(trained.prefix + MANIFEST_NAME) == manifest_bytes(first.manifest)


def test_a_manifest_that_was_planted_is_no_manifest(trained: Trained, objects: Objects) -> None:
    report = trained.upload()
    objects.put(trained.prefix + MANIFEST_NAME, b'{"version": 1}')
    failure = trained.verify(report)
    assert isinstance(failure, Failure)
    assert "another one" in failure.message


def _nan(position: int) -> bytes:
    arrays = make_weights()
    next(iter(arrays.values())).reshape(-1)[position] = np.nan
    return save(arrays)


def test_weights_that_are_not_finite_are_a_diverged_training(trained: Trained, objects: Objects) -> None:
    failure = trained.verify(trained.upload({WEIGHTS: _nan(5)}))
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.DIVERGED
    assert "not finite" in failure.message
    assert objects.head(trained.prefix + MANIFEST_NAME) is None


BAD_UPLOADS: list[tuple[dict[str, bytes | None], str]] = [
    ({WEIGHTS: None}, "adapter_model.safetensors is missing"),
    ({CONFIG: None}, "adapter_config.json is missing"),
    ({"pytorch_model.bin": b"\x80\x04"}, '"pytorch_model.bin" is no file of an adapter'),
    ({"adapter_model.bin": b"\x80\x04"}, "is no file of an adapter"),
    ({"code.py": b"import os"}, "is no file of an adapter"),
    ({"sub/README.md": b""}, "is no file of an adapter"),
    ({CONFIG: b"{" + b" " * 1024**2}, "at most 1048576 are published"),
    ({CONFIG: b"[]"}, "not a JSON object"),
    ({CONFIG: b'{"r": NaN}'}, "not JSON"),
    ({CONFIG: b'{"r": 4, "r": 8}'}, "in one object twice"),
    ({CONFIG: b'{"auto_mapping": {"parent_library": "os"}}'}, "adapter_config.json"),
    ({"tokenizer_config.json": b'{"auto_map": {"AutoTokenizer": "x.py"}}'}, "code of its own"),
    ({"tokenizer_config.json": b'{"a": [{"trust_remote_code": true}]}'}, "code of its own"),
    ({WEIGHTS: save(make_weights(r=8))}, "other shapes"),
    ({WEIGHTS: save({"a": np.ones(3)})}, "no tensor of a LoRA adapter"),
    ({WEIGHTS: save({name: a.astype(np.int32) for name, a in make_weights().items()})}, "has dtype I32"),
    ({WEIGHTS: save(make_weights())[:-1]}, "follow the header"),
    ({WEIGHTS: save(make_weights()) + b"\0"}, "follow the header"),
    ({WEIGHTS: b""}, "shorter"),
]


@pytest.mark.parametrize(("changes", "reason"), BAD_UPLOADS)
def test_each_bad_upload_is_refused(trained: Trained, changes: dict[str, bytes | None], reason: str) -> None:
    assert reason in trained.refused(trained.upload(changes))


Lie = Callable[[tuple[StoredFile, ...]], tuple[StoredFile, ...]]
LIES: list[tuple[Lie, str]] = [
    (lambda said: (said[0].model_copy(update={"sha256": "0" * 64}), *said[1:]), "SHA-256"),
    (lambda said: (said[0].model_copy(update={"size_bytes": 1}), *said[1:]), "were reported"),
    (lambda said: (*said, said[0]), "twice"),
    (lambda said: said[:-1], "stored and not reported"),
    (lambda said: (*said, StoredFile(name="merges.txt", size_bytes=3, sha256="0" * 64)), "was not stored"),
    (lambda said: (*said, StoredFile(name="../x", size_bytes=3, sha256="0" * 64)), "no file of an adapter"),
    (lambda said: (), "is missing"),
]


@pytest.mark.parametrize(("lie", "reason"), LIES)
def test_each_lie_about_the_upload_is_refused(trained: Trained, lie: Lie, reason: str) -> None:
    said = trained.upload().files
    assert reason in trained.refused(trained.report(lie(said)))


def test_another_attempts_files_are_not_ours(trained: Trained) -> None:
    report = trained.upload()
    other = report.model_copy(update={"key_prefix": trained.prefix.replace("0001-", "0002-")})
    assert "another attempt's prefix" in trained.refused(other)


def test_what_the_worker_says_is_stored_as_strict_json(trained: Trained) -> None:
    said = trained.upload().files
    assert "not plain JSON" in trained.refused(trained.report(said, lineage={"a": "\ud800"}))
    assert "not plain JSON" in trained.refused(trained.report(said, lineage={"a": object()}))
    assert "too large" in trained.refused(trained.report(said, lineage={"a": "x" * 1024**2}))
    adapter = trained.verify(trained.report(said, metrics={"eval_loss": float("nan"), "train_loss": 1.0}))
    assert isinstance(adapter, Adapter)
    assert adapter.manifest["metrics"] == {"eval_loss": None, "train_loss": 1.0}


def test_no_changed_byte_is_ever_published(trained: Trained, objects: Objects) -> None:
    report = trained.upload()
    dice = random.Random(2026)
    for _ in range(60):
        name = dice.choice(sorted(trained.files))
        body = bytearray(trained.files[name])
        position = dice.randrange(len(body))
        body[position] ^= 1 << dice.randrange(8)
        objects.put(trained.prefix + name, bytes(body))
        assert f"SHA-256 of {name}" in trained.refused(report)
        objects.put(trained.prefix + name, trained.files[name])
    assert isinstance(trained.verify(report), Adapter)


def test_no_changed_byte_passes_even_with_the_right_checksum(trained: Trained) -> None:
    """A worker that lies well still can't publish what PEFT would stumble over."""
    dice = random.Random(11)
    header_bytes = 8 + int.from_bytes(trained.files[WEIGHTS][:8], "little")
    outcomes = set()
    for _ in range(25):
        body = bytearray(trained.files[WEIGHTS])
        body[dice.randrange(header_bytes)] ^= 1 << dice.randrange(8)
        outcome = trained.verify(trained.upload({WEIGHTS: bytes(body)}))
        if isinstance(outcome, Adapter):  # only free text: the metadata, or an equal spelling
            trained.service.objects.delete(trained.prefix + MANIFEST_NAME)
        outcomes.add(type(outcome))
    assert Failure in outcomes


def test_a_store_that_is_away_is_not_the_adapters_fault(trained: Trained) -> None:
    report = trained.upload()
    dead = Objects("http://127.0.0.1:9", "us-east-1", bucket="b-b", access_key="a", secret_key="b")
    with pytest.raises(ObjectsUnavailableError):
        replace(trained.service, objects=dead).verify(trained.job, trained.attempt, report)


def test_downloads_are_the_verified_bytes(trained: Trained, published: Adapter, http: httpx2.Client) -> None:
    service, caller = trained.service, trained.caller
    for id_or_name in (published.adapter_id, published.name):
        assert service.get(caller, id_or_name) == published
    assert service.manifest(caller, published.adapter_id) == published.manifest
    downloads = service.download_urls(caller, published.adapter_id)
    assert {download.file.name: http.get(download.url).content for download in downloads} == trained.files
    tar = service.open_tar(caller, published.adapter_id)
    data = b"".join(tar.chunks)
    assert len(data) == tar.size_bytes
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    assert members.pop(MANIFEST_NAME) == manifest_bytes(published.manifest)
    assert members == trained.files


@pytest.mark.parametrize("name", [WEIGHTS, "README.md"])
def test_what_was_changed_after_publishing_is_not_served(trained: Trained, published: Adapter, name: str) -> None:
    service, caller, objects = trained.service, trained.caller, trained.service.objects
    body = trained.files[name]
    for changed in (body[:-1] + bytes([body[-1] ^ 1]), body[:-1], body + b"x"):
        objects.put(trained.prefix + name, changed)
        for call in (service.download_urls, service.open_tar):
            with pytest.raises(ObjectsUnavailableError) as caught:
                call(caller, published.adapter_id)
            assert caught.value.code == "object_damaged"
    objects.delete(trained.prefix + name)
    with pytest.raises(ObjectsUnavailableError) as caught:
        service.open_tar(caller, published.adapter_id)
    assert caught.value.code == "object_missing"
    objects.put(trained.prefix + name, body)
    assert service.download_urls(caller, published.adapter_id)


def test_a_change_while_a_tar_is_read_cuts_it_off(trained: Trained, published: Adapter) -> None:
    tar = trained.service.open_tar(trained.caller, published.adapter_id)
    body = trained.files["README.md"]
    trained.service.objects.put(trained.prefix + "README.md", body[::-1])
    sizes: list[int] = []
    with pytest.raises(ObjectsUnavailableError):
        sizes.extend(len(chunk) for chunk in tar.chunks)
    assert 0 < sum(sizes) < tar.size_bytes


def test_a_bucket_that_was_moved_still_serves(
    trained: Trained, published: Adapter, storage_server: StorageServer
) -> None:
    """Another server may give the same bytes another ETag; a copy in parts does."""
    client = storage_server.open_client()
    key, bucket = trained.prefix + WEIGHTS, trained.service.objects.bucket
    started = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    part = client.upload_part(Bucket=bucket, Key=key, UploadId=started, PartNumber=1, Body=trained.files[WEIGHTS])
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=started, MultipartUpload=parts)
    info = trained.service.objects.head(key)
    assert info is not None
    recorded = next(entry["etag"] for entry in published.manifest["files"] if entry["name"] == WEIGHTS)
    assert info.etag != recorded
    assert trained.service.download_urls(trained.caller, published.adapter_id)


def test_a_deleted_adapter_is_gone_at_once(trained: Trained, published: Adapter, objects: Objects) -> None:
    service, caller = trained.service, trained.caller
    with pytest.raises(ForbiddenError):
        service.delete(as_role(caller, Role.VIEWER), published.adapter_id)
    service.delete(caller, published.name)
    for call in (service.get, service.manifest, service.download_urls, service.open_tar, service.delete):
        for id_or_name in (published.adapter_id, published.name):
            with pytest.raises(NotFoundError):
                call(caller, id_or_name)
    assert not service.list(caller).items
    assert objects.head(trained.prefix + WEIGHTS) is not None


def test_a_team_never_meets_anothers_adapters(trained: Trained, published: Adapter) -> None:
    service = trained.service
    thief, admin = make_caller(service.store), make_caller(service.store, Role.ADMIN)
    for call in (service.get, service.manifest, service.download_urls, service.open_tar, service.delete):
        for id_or_name in (published.adapter_id, published.name):
            with pytest.raises(NotFoundError):
                call(thief, id_or_name)
    assert not service.list(thief).items
    assert [adapter.adapter_id for adapter in service.list(admin).items] == [published.adapter_id]
    assert service.get(as_role(trained.caller, Role.VIEWER), published.adapter_id) == published


def test_describing_files_is_what_a_worker_reports() -> None:
    assert {file.name for file in describe(make_adapter_files())} == set(make_adapter_files())
