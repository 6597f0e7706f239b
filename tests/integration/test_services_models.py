"""Base models from folders, the bucket and a hub: what is registered, what is refused, and how names are resolved."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import constants
from sqlalchemy import update

from orchestrator.domain.errors import (
    ConflictError,
    ForbiddenError,
    HubUnavailableError,
    InvalidRequestError,
    NotFoundError,
)
from orchestrator.domain.models import ModelSourceKind
from orchestrator.domain.states import JobState
from orchestrator.domain.teams import Caller, Role
from orchestrator.objects.client import Objects
from orchestrator.services.hub import Hub
from orchestrator.services.models import Models
from orchestrator.store import jobs
from orchestrator.store.session import Store
from orchestrator.store.tables.files import base_models
from tests.support.callers import as_role, make_caller
from tests.support.fake_hub import COMMIT, FakeHub, run_fake_hub
from tests.support.model_folders import CONFIG, PARAMETERS, make_model_files, make_sharded_files, write_model
from tests.support.rows import add_job


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder.resolve()


@pytest.fixture
def models(sqlite_store: Store, objects: Objects, root: Path) -> Models:
    return Models(store=sqlite_store, objects=objects, roots=(root,), hub=None, input_url_seconds=60)


@pytest.fixture
def admin(sqlite_store: Store) -> Caller:
    return make_caller(sqlite_store, Role.ADMIN)


@pytest.fixture
def fake_hub() -> Iterator[FakeHub]:
    with run_fake_hub() as hub:
        yield hub


@pytest.fixture
def with_hub(models: Models, fake_hub: FakeHub, tmp_path: Path) -> Models:
    return replace(models, hub=Hub("hf_secret", endpoint=fake_hub.url, cache_dir=tmp_path / "cache"))


def test_a_folder_is_registered_with_its_facts(models: Models, admin: Caller, root: Path) -> None:
    folder = write_model(root / "smol")
    model = models.add(admin, "smol", str(folder))
    assert (model.source, model.location) == (ModelSourceKind.PATH, str(folder))
    assert model.facts.total_parameters == PARAMETERS
    assert model.facts.linear_names == {"q_proj", "down_proj"}
    assert model.facts.has_chat_template
    assert {file.path for file in model.files} == set(make_model_files())
    assert models.get(admin, "smol") == model
    assert models.list(admin) == [model]
    source = models.source(model)
    assert (source.kind, source.path, source.revision) == ("path", str(folder), model.revision)


def test_the_config_is_kept_without_what_says_nothing_of_the_shape(models: Models, admin: Caller, root: Path) -> None:
    more = {"transformers_version": "5.3.0", "_name_or_path": "/home/someone/smol", "id2label": {"0": "x"}}
    model = models.add(admin, "smol", str(write_model(root / "smol", make_model_files(**more))))
    assert model.config == CONFIG
    assert models.resolve("smol").config == CONFIG


def forget_configs(store: Store) -> None:
    """As an earlier release left its rows."""
    with store.write() as tx:
        tx.execute(update(base_models).values(config=None))


def test_a_config_that_an_earlier_release_did_not_keep_is_read_when_the_model_is_used(
    models: Models, admin: Caller, root: Path, sqlite_store: Store
) -> None:
    before = models.add(admin, "smol", str(write_model(root / "smol")))
    forget_configs(sqlite_store)
    assert models.resolve("smol") == before
    assert models.get(admin, "smol") == before, "and kept"


def test_the_config_of_another_revision_is_not_taken(
    models: Models, admin: Caller, root: Path, sqlite_store: Store
) -> None:
    models.add(admin, "smol", str(write_model(root / "smol")))
    forget_configs(sqlite_store)
    write_model(root / "smol", make_model_files(num_hidden_layers=1))
    assert models.resolve("smol").config is None


def test_a_model_that_cannot_be_read_again_is_used_without_its_config(
    models: Models, admin: Caller, root: Path, sqlite_store: Store
) -> None:
    models.add(admin, "smol", str(write_model(root / "smol")))
    forget_configs(sqlite_store)
    (root / "smol" / "config.json").unlink()
    assert models.resolve("smol").config is None
    write_model(root / "smol")
    assert models.resolve("smol").config is None, "it is looked for once"


def test_a_hub_model_is_read_again_at_its_commit(
    with_hub: Models, admin: Caller, fake_hub: FakeHub, sqlite_store: Store
) -> None:
    fake_hub.models["org/smol"] = make_model_files()
    before = with_hub.resolve("org/smol")
    forget_configs(sqlite_store)
    assert with_hub.resolve("org/smol").config == before.config == CONFIG


def test_the_revision_of_a_folder_is_its_content(models: Models, admin: Caller, root: Path) -> None:
    first = models.add(admin, "a", str(write_model(root / "a")))
    same = models.add(admin, "b", str(write_model(root / "b")))
    assert len(first.revision) == 64
    assert first.revision == same.revision
    changed = {**make_model_files(), "tokenizer.json": b'{"version": "1.1"}'}
    assert models.add(admin, "c", str(write_model(root / "c", changed))).revision != first.revision
    again = models.add(admin, "a", str(root / "c"))
    assert (again.revision, again.created_at) == (models.get(admin, "c").revision, first.created_at)


def test_shards_are_those_of_the_index(models: Models, admin: Caller, root: Path) -> None:
    model = models.add(admin, "big", str(write_model(root / "big", make_sharded_files())))
    assert model.facts.total_parameters == PARAMETERS
    weights = [file.path for file in model.files if file.path.endswith(".safetensors")]
    assert weights == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert "pytorch_model.bin" not in {file.path for file in model.files}


def _without(*names: str) -> dict[str, bytes]:
    return {name: body for name, body in make_model_files().items() if name not in names}


BAD_MODELS: list[tuple[dict[str, bytes], str, str]] = [
    ({**_without("model.safetensors"), "pytorch_model.bin": b"\x80"}, "bad_model", "pickled files can run code"),
    (_without("model.safetensors"), "bad_model", "neither model.safetensors nor"),
    (_without("tokenizer.json"), "bad_model", "no tokenizer.json"),
    ({**_without(), "config.json": b"[]"}, "bad_model", "not a JSON object"),
    ({**_without(), "config.json": b'{"model_type": NaN}'}, "bad_model", "not JSON"),
    ({**_without(), "config.json": b"\xff"}, "bad_model", "not UTF-8"),
    ({**_without(), "config.json": b"{}"}, "bad_model", "lacks model_type"),
    (make_model_files(auto_map={"AutoModel": "x.Y"}), "remote_code", "remote code is never run"),
    (make_model_files(text_config={"auto_map": {}}), "remote_code", "remote code is never run"),
    (make_model_files(attn_implementation="kernels-community/flash"), "remote_code", "remote code is never run"),
    ({**_without(), "tokenizer_config.json": b'{"auto_map": ["x", null]}'}, "remote_code", "tokenizer_config.json"),
    (make_model_files(architectures=["BertForMaskedLM"]), "bad_model", "not a causal language model"),
    (make_model_files(architectures=None), "bad_model", "not a causal language model"),
    (make_model_files(quantization_config={"bits": 4}), "bad_model", "quantized already"),
    (make_model_files(hidden_size="wide"), "bad_model", "wrong type"),
    (make_model_files(hidden_size=[1]), "bad_model", "wrong type"),
    (make_model_files(text_config=7), "bad_model", "wrong type"),
    (make_model_files(vocab_size=-1), "bad_model", "impossible vocab_size"),
    (make_model_files(num_hidden_layers=2**60), "bad_model", "impossible num_layers"),
    ({**_without(), "model.safetensors": b"\x80\x04" * 50}, "bad_model", "no safetensors file"),
    ({**_without(), "model.safetensors": b""}, "bad_model", "no safetensors file"),
    ({**_without(), "model.safetensors": make_model_files()["model.safetensors"][:-4]}, "bad_model", "no safetensors"),
    ({**_without(), "model.safetensors.index.json": b'{"weight_map": {"a": "../x.safetensors"}}'}, "bad_model", "list"),
    ({**_without(), "model.safetensors.index.json": b'{"weight_map": {"a": "b.safetensors"}}'}, "bad_model", "missing"),
    ({**_without(), "model.safetensors.index.json": b'{"weight_map": {"a": "x.bin"}}'}, "bad_model", "list"),
    ({**_without(), "model.safetensors.index.json": b'{"weight_map": {"a": {}}}'}, "bad_model", "list"),
    ({**_without(), "model.safetensors.index.json": b'{"weight_map": [1]}'}, "bad_model", "list"),
]


@pytest.mark.parametrize(("files", "code", "reason"), BAD_MODELS)
def test_each_model_that_cannot_be_trained_is_refused(
    models: Models, admin: Caller, root: Path, files: dict[str, bytes], code: str, reason: str
) -> None:
    folder = write_model(root / "bad", files)
    with pytest.raises(InvalidRequestError) as caught:
        models.add(admin, "bad", str(folder))
    assert (caught.value.code, caught.value.param) == (code, "model")
    assert caught.value.message.startswith("bad: ")
    assert reason in caught.value.message
    assert not models.list(admin)


def test_for_jobs_a_place_outside_the_roots_does_not_exist(
    models: Models, admin: Caller, root: Path, tmp_path: Path
) -> None:
    outside = write_model(tmp_path / "outside")
    (root / "link").symlink_to(outside)
    (root / "dots").mkdir()
    messages = set()
    hidden = [str(outside), str(root / "link"), f"{root}/../outside", f"{root}/dots/../../outside", "link"]
    for name in (*hidden, "../outside", "dots/../../outside", "/nowhere", "\0", "/", "", "."):
        with pytest.raises(InvalidRequestError) as caught:
            models.resolve(name)
        assert caught.value.code == "model_not_found"
        messages.add(caught.value.message.replace(repr(name), ""))
    assert len(messages) == 1
    for location in ("link", "../outside", "/nowhere", "\0"):
        with pytest.raises(InvalidRequestError) as caught:
            models.add(admin, "evil", location)
        assert caught.value.code == "model_not_found"
    assert models.add(admin, "elsewhere", str(outside)).location == str(outside.resolve())
    assert models.resolve("elsewhere").facts.total_parameters == PARAMETERS


def test_a_file_that_links_out_of_the_roots_is_not_read(models: Models, root: Path, tmp_path: Path) -> None:
    folder = write_model(root / "smol")
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (folder / "generation_config.json").symlink_to(secret)
    for name in ("smol", str(folder)):
        with pytest.raises(InvalidRequestError, match="outside the allowed folders"):
            models.resolve(name)


def test_links_inside_the_roots_are_followed(models: Models, admin: Caller, root: Path) -> None:
    blobs = write_model(root / "blobs")
    snapshot = root / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(os.path.relpath(path, snapshot))
    assert models.add(admin, "cached", str(snapshot)).facts.total_parameters == PARAMETERS


def test_a_name_is_a_registered_one_then_a_folder(models: Models, admin: Caller, root: Path) -> None:
    write_model(root / "org" / "smol")
    found = models.resolve("org/smol")
    assert (found.name, found.location) == ("org/smol", str(root / "org" / "smol"))
    assert models.resolve(str(root / "org" / "smol")).revision == found.revision
    other = models.add(admin, "org/smol", str(write_model(root / "other", make_sharded_files())))
    assert models.resolve("org/smol") == other


def test_a_name_that_means_nothing_says_where_it_was_looked_for(models: Models, admin: Caller, root: Path) -> None:
    models.add(admin, "smol", str(write_model(root / "smol")))
    with pytest.raises(InvalidRequestError) as caught:
        models.resolve("gpt-4o-mini")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert str(root) in caught.value.message
    assert "Registered: smol." in caught.value.message
    assert "the hub is not asked here" in caught.value.message


def test_a_model_in_the_bucket_is_downloaded_by_presigned_urls(
    models: Models, admin: Caller, objects: Objects, http: httpx2.Client
) -> None:
    files = make_sharded_files()
    for name, body in files.items():
        objects.put(f"models/smol/{name}", body)
    objects.put("models/smol/onnx/config.json", b"{}")
    objects.put("models/smol-2/config.json", b"{}")
    model = models.add(admin, "smol", f"s3://{objects.bucket}/models/smol")
    assert (model.source, model.location) == (ModelSourceKind.S3, f"s3://{objects.bucket}/models/smol/")
    assert model.facts.total_parameters == PARAMETERS
    source = models.source(model)
    assert source.kind == "s3"
    fetched = {file.name: http.get(file.url).content for file in source.files}
    assert fetched == {name: files[name] for name in fetched}
    assert len(fetched) == 6
    for location in ("s3://other/models/smol", f"s3://{objects.bucket}", f"s3://{objects.bucket}/a/../b", "s3://"):
        with pytest.raises(InvalidRequestError) as caught:
            models.add(admin, "x", location)
        assert caught.value.param == "location"
    with pytest.raises(InvalidRequestError, match=r"there is no config\.json"):
        models.add(admin, "x", f"s3://{objects.bucket}/models/nothing")


def test_a_model_of_the_hub_is_pinned_to_its_commit(with_hub: Models, admin: Caller, fake_hub: FakeHub) -> None:
    fake_hub.models["org/smol"] = {**make_sharded_files(), "onnx/config.json": b"{}"}
    model = with_hub.add(admin, "smol", "org/smol")
    assert (model.source, model.location, model.revision) == (ModelSourceKind.HUB, "org/smol", COMMIT)
    assert model.facts.total_parameters == PARAMETERS
    source = with_hub.source(model)
    assert (source.kind, source.hub_id, source.revision, source.hub_token) == ("hub", "org/smol", COMMIT, "hf_secret")
    assert "hf_secret" not in repr(source) + repr(with_hub)
    assert with_hub.resolve("org/smol").revision == COMMIT
    assert with_hub.add(admin, "pinned", f"org/smol@{COMMIT}").revision == COMMIT
    assert {headers.get("authorization") for _, headers in fake_hub.requests} == {"Bearer hf_secret"}
    for name in ("org/smol@nothing", "org/none"):
        with pytest.raises(InvalidRequestError) as caught:
            with_hub.add(admin, "x", name)
        assert caught.value.code == "model_not_found"


def test_only_the_headers_of_a_hub_models_weights_are_read(with_hub: Models, fake_hub: FakeHub) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [4_000_000], "data_offsets": [0, 16_000_000]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(16_000_000)
    fake_hub.models["org/big"] = {**make_model_files(), "model.safetensors": weights}
    fake_hub.ignores_ranges = True
    assert with_hub.resolve("org/big").facts.total_parameters == 4_000_000
    fake_hub.ignores_ranges, fake_hub.bytes_sent = False, 0
    assert with_hub.resolve("org/big")
    assert fake_hub.bytes_sent < 200_000


def test_the_token_does_not_travel_to_another_origin(with_hub: Models, fake_hub: FakeHub) -> None:
    with run_fake_hub() as content:
        content.models["org/smol"] = fake_hub.models["org/smol"] = make_model_files()
        fake_hub.redirects_to = content.url.replace("127.0.0.1", "localhost")
        assert with_hub.resolve("org/smol").facts.total_parameters == PARAMETERS
        assert content.requests
        assert all("authorization" not in headers for _, headers in content.requests)


def test_a_hub_that_refuses_or_fails_is_told_apart(with_hub: Models, fake_hub: FakeHub) -> None:
    fake_hub.failures = {"org/gated": (403, "GatedRepo"), "org/down": (500, "")}
    with pytest.raises(InvalidRequestError) as caught:
        with_hub.resolve("org/gated")
    assert caught.value.code == "model_gated"
    with pytest.raises(HubUnavailableError, match="No base model is registered yet"):
        with_hub.resolve("org/down")
    with pytest.raises(InvalidRequestError) as caught:
        with_hub.resolve("org/none")
    assert caught.value.code == "model_not_found"
    asked = len(fake_hub.requests)
    for name in ("smol", "a/b/c", "../x", "org/..", "ft:smol:team-a::12345678"):
        with pytest.raises(InvalidRequestError):
            with_hub.resolve(name)
    assert len(fake_hub.requests) == asked


def test_without_the_hub_its_cache_is_what_there_is(models: Models, tmp_path: Path) -> None:
    repository = tmp_path / "cache" / "models--org--smol"
    write_model(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    offline = replace(models, hub=Hub(None, endpoint="http://127.0.0.1:9", cache_dir=tmp_path / "cache"))
    found = offline.resolve("org/smol")
    assert (found.source, found.revision) == (ModelSourceKind.HUB, COMMIT)
    with pytest.raises(HubUnavailableError) as caught:
        offline.resolve("org/other")
    assert "the hub could not be asked for org/other" in caught.value.message
    assert "Registered: org/smol" in caught.value.message


def test_offline_nobody_is_asked(
    with_hub: Models, fake_hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fake_hub.models["org/smol"] = make_model_files()
    with pytest.raises(HubUnavailableError, match="not in this machine's cache, and HF_HUB_OFFLINE is set"):
        with_hub.resolve("org/smol")
    write_model(tmp_path / "cache" / "models--org--smol" / "snapshots" / COMMIT)
    with pytest.raises(HubUnavailableError):
        with_hub.resolve("org/smol")  # without refs/main nobody knows that this is the newest
    model = with_hub.add(make_caller(with_hub.store, Role.ADMIN), "pinned", f"org/smol@{COMMIT}")
    assert model.revision == COMMIT
    assert not fake_hub.requests


def test_a_model_in_use_keeps_its_revision(models: Models, admin: Caller, root: Path, sqlite_store: Store) -> None:
    models.add(admin, "smol", str(write_model(root / "smol")))
    with sqlite_store.write() as tx:
        job = add_job(tx, model="smol")
    other = write_model(root / "other", make_sharded_files())
    for call in (lambda: models.add(admin, "smol", str(other)), lambda: models.delete(admin, "smol")):
        with pytest.raises(ConflictError) as caught:
            call()
        assert caught.value.code == "model_in_use"
        assert job.job_id in caught.value.message
    assert models.add(admin, "smol", str(root / "smol")).location == str(root / "smol")
    assert models.source_for(job).path == str(root / "smol")
    with sqlite_store.write() as tx:
        jobs.apply_job_transition(tx, job.job_id, JobState.CANCELLED, message="Cancelled.")
    models.delete(admin, "smol")
    with pytest.raises(NotFoundError):
        models.delete(admin, "smol")
    with pytest.raises(NotFoundError):
        models.source_for(job)


def test_only_admins_keep_the_registry(models: Models, admin: Caller, root: Path) -> None:
    folder = write_model(root / "smol")
    models.add(admin, "smol", str(folder))
    for role in (Role.MEMBER, Role.VIEWER):
        caller = as_role(admin, role)
        with pytest.raises(ForbiddenError):
            models.add(caller, "other", str(folder))
        with pytest.raises(ForbiddenError):
            models.delete(caller, "smol")
        assert models.get(caller, "smol").name == "smol"
        assert len(models.list(caller)) == 1


@pytest.mark.parametrize("name", ["", " ", "/a", "-a", "a b", "a\n", "ft:a:b:c:12345678", "x" * 257, "ü", "a\0"])
def test_hostile_names_are_refused(models: Models, admin: Caller, root: Path, name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        models.add(admin, name, str(write_model(root / "smol")))
    assert caught.value.param == "name"
