"""Every call of the contract with the unmodified openai client, synchronous and asynchronous, strict about answers."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from orchestrator.domain.protocol import FileProblem, ValidationResult
from orchestrator.domain.teams import Role
from tests.support.openai_clients import Client, open_client, tickets
from tests.support.servers import ApiServer
from tests.support.trainers import Trainer

DAY = 86_400


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(api_server: ApiServer, kind: str) -> Iterator[Client]:
    with open_client(api_server, kind, key=api_server.make_key()) as opened:
        yield opened


def _fails(client: Client, error: type[openai.APIStatusError], call: Any) -> dict[str, Any]:
    """What the error says; the stock client did not repeat the call."""
    sent = len(client.transport.sent)
    with pytest.raises(error) as caught:
        client.do(call())
    assert len(client.transport.sent) == sent + 1
    assert caught.value.request_id
    body = caught.value.body
    assert isinstance(body, dict)
    assert set(body) == {"message", "type", "code", "param"}
    return body


def test_files_live_their_life(client: Client, tmp_path: Path) -> None:
    files, data = client.openai.files, tickets()
    path = tmp_path / "tickets.jsonl"
    path.write_bytes(data)
    made = client.do(files.create(file=path, purpose="fine-tune"))
    assert (made.id[:5], made.object, made.bytes, made.filename) == ("file-", "file", len(data), "tickets.jsonl")
    assert (made.purpose, made.status, made.expires_at) == ("fine-tune", "processed", None)
    assert made._request_id
    assert client.do(files.retrieve(made.id)) == made
    assert client.do(files.wait_for_processing(made.id, poll_interval=0.01)) == made
    assert client.do(files.content(made.id)).read() == data
    assert [file.id for file in client.collect(files.list(purpose="fine-tune"))] == [made.id]
    assert client.collect(files.list(purpose="fine-tune-results")) == []
    assert client.collect(files.list(purpose="assistants")) == []
    gone = client.do(files.delete(made.id))
    assert (gone.id, gone.object, gone.deleted) == (made.id, "file", True)
    assert _fails(client, openai.NotFoundError, lambda: files.retrieve(made.id))["code"] == "not_found"
    assert client.collect(files.list()) == []


def test_a_file_can_expire_and_keeps_the_name_it_was_given(client: Client) -> None:
    made = client.do(
        client.openai.files.create(
            file=("../../etc/ünïcode 文件.jsonl", tickets(), "application/json"),
            purpose="fine-tune",
            expires_after={"anchor": "created_at", "seconds": DAY},
            extra_body={"anything": "else"},
        )
    )
    assert made.filename == "../../etc/ünïcode 文件.jsonl"
    assert made.expires_at == made.created_at + DAY


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"purpose": "assistants"}, "purpose"),
        ({"expires_after": {"anchor": "created_at", "seconds": 60}}, "expires_after[seconds]"),
        ({"expires_after": {"anchor": "last_active_at", "seconds": DAY}}, "expires_after[anchor]"),
    ],
)
def test_a_file_that_is_not_wanted_is_refused(client: Client, options: dict[str, Any], param: str) -> None:
    fields = {"file": ("a.jsonl", tickets()), "purpose": "fine-tune", **options}
    assert _fails(client, openai.BadRequestError, lambda: client.openai.files.create(**fields))["param"] == param
    assert client.collect(client.openai.files.list()) == []


def test_files_are_paged_in_both_orders(client: Client) -> None:
    made = [client.upload(tickets(n + 1)) for n in range(5)]
    newest_first = [file.id for file in client.collect(client.openai.files.list(limit=2))]
    oldest_first = [file.id for file in client.collect(client.openai.files.list(limit=2, order="asc"))]
    assert newest_first == made[::-1]
    assert oldest_first == made
    assert len([request for request in client.transport.sent if request.method == "GET"]) == 6
    after = [file.id for file in client.collect(client.openai.files.list(after=made[2], order="asc"))]
    assert after == made[3:]
    assert _fails(client, openai.BadRequestError, lambda: client.openai.files.list(after="file-x"))["param"] == "after"


def test_a_large_file_goes_up_in_parts(client: Client) -> None:
    data = tickets(400)
    done = client.do(
        client.openai.uploads.upload_file_chunked(
            file=data,
            filename="big.jsonl",
            bytes=len(data),
            mime_type="text/jsonl",
            purpose="fine-tune",
            part_size=30_000,
            md5=hashlib.md5(data).hexdigest(),
        )
    )
    assert (done.object, done.status, done.bytes, done.filename) == ("upload", "completed", len(data), "big.jsonl")
    assert done.expires_at == done.created_at + 3600
    assert done.file is not None
    assert done.file.status == "processed"
    assert client.do(client.openai.files.content(done.file.id)).read() == data


def test_parts_make_the_file_in_the_order_that_is_asked_for(client: Client) -> None:
    uploads, data = client.openai.uploads, tickets(4)
    ask = {"filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune", "bytes": len(data)}
    upload = client.do(uploads.create(**ask, expires_after={"anchor": "created_at", "seconds": DAY}))
    assert (upload.id[:7], upload.status, upload.file) == ("upload_", "pending", None)
    second = client.do(uploads.parts.create(upload.id, data=data[50:]))
    first = client.do(uploads.parts.create(upload.id, data=data[:50]))
    assert (first.id[:5], first.object, first.upload_id) == ("part_", "upload.part", upload.id)
    complete = uploads.complete
    foreign = _fails(client, openai.BadRequestError, lambda: complete(upload.id, part_ids=[first.id, "part_x"]))
    twice = _fails(client, openai.BadRequestError, lambda: complete(upload.id, part_ids=[first.id, first.id]))
    short = _fails(client, openai.BadRequestError, lambda: complete(upload.id, part_ids=[first.id]))
    wrong = _fails(
        client, openai.BadRequestError, lambda: complete(upload.id, part_ids=[first.id, second.id], md5="0" * 32)
    )
    codes = [problem["code"] for problem in (foreign, twice, short, wrong)]
    assert codes == ["unknown_part", "duplicate_part", "size_mismatch", "md5_mismatch"]
    done = client.do(complete(upload.id, part_ids=[first.id, second.id]))
    again = client.do(complete(upload.id, part_ids=[first.id, second.id]))
    assert done == again
    assert done.file.expires_at == done.file.created_at + DAY
    assert client.do(client.openai.files.content(done.file.id)).read() == data
    assert _fails(client, openai.ConflictError, lambda: uploads.cancel(upload.id))["code"] == "invalid_state"


def test_an_upload_can_be_cancelled(client: Client) -> None:
    uploads = client.openai.uploads
    ask = {"filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    upload = client.do(uploads.create(**ask, bytes=10))
    assert client.do(uploads.cancel(upload.id)).status == "cancelled"
    assert client.do(uploads.cancel(upload.id)).status == "cancelled"
    late = _fails(client, openai.ConflictError, lambda: uploads.parts.create(upload.id, data=b"x"))
    assert late["code"] == "invalid_state"
    with pytest.raises(openai.APIStatusError) as caught:
        client.do(uploads.create(**ask, bytes=9 * 1024**3))
    assert caught.value.status_code == 413
    wrong = _fails(client, openai.BadRequestError, lambda: uploads.create(**{**ask, "purpose": "vision"}, bytes=10))
    assert wrong["param"] == "purpose"


def test_three_fields_make_a_job(client: Client) -> None:
    file_id = client.upload()
    job = client.do(
        client.openai.fine_tuning.jobs.create(
            model="tiny", training_file=file_id, method={"type": "supervised"}, validation_file=None, suffix=None
        )
    )
    assert (job.id[:6], job.object, job.status, job.model) == ("ftjob-", "fine_tuning.job", "validating_files", "tiny")
    assert (job.training_file, job.validation_file, job.result_files) == (file_id, None, [])
    assert (job.error, job.fine_tuned_model, job.finished_at, job.trained_tokens) == (None, None, None, None)
    assert job.hyperparameters.model_dump() == {
        "batch_size": "auto",
        "learning_rate_multiplier": "auto",
        "n_epochs": "auto",
    }
    assert job.method.type == "supervised"
    assert 0 <= job.seed < 2**31
    assert job.integrations == []
    assert client.do(client.openai.fine_tuning.jobs.retrieve(job.id)) == job


def test_all_that_openai_knows_comes_back(client: Client) -> None:
    training, validation = client.upload(), client.upload(tickets(5))
    hyperparameters = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}
    job = client.submit(
        training_file=training,
        validation_file=validation,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        suffix="support-v1",
        seed=42,
        metadata={"owner": "Ada"},
        integrations=[],
    )
    assert (job.seed, job.validation_file, job.metadata) == (42, validation, {"owner": "Ada"})
    assert job.hyperparameters.model_dump() == hyperparameters
    assert job.method.supervised.hyperparameters.model_dump() == hyperparameters
    older = client.submit(training_file=training, hyperparameters={"n_epochs": 1})
    assert older.hyperparameters.n_epochs == 1
    assert older.method.supervised.hyperparameters.n_epochs == 1


def test_our_own_fields_ride_in_extra_body(client: Client) -> None:
    asked = {
        "lora": {"r": 8, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]},
        "quantization": {"type": "nf4", "double_quant": True},
        "training": {"max_seq_length": 64, "micro_batch_size": 2, "learning_rate": 1e-4},
        "resources": {"device_type": "auto", "exclusive": True},
        "priority": 5,
        "max_cost_usd": "2.50",
    }
    job = client.submit(extra_body=asked).model_extra
    assert job["lora"]["alpha"] == 32
    assert {name: job["lora"][name] for name in ("r", "target_modules")} == {
        "r": 8,
        "target_modules": ["q_proj", "v_proj"],
    }
    for part in ("quantization", "training", "resources"):
        assert {name: job[part][name] for name in asked[part]} == asked[part]  # type: ignore[attr-defined]
    assert (job["priority"], job["max_cost_usd"], job["phase"]) == (5, "2.500000", None)
    assert job["progress"] == {"step": 0, "total_steps": None, "percent": None, "trained_tokens": 0}
    assert job["cost"]["billed_usd_micros"] == 0


def test_a_job_goes_to_succeeded_and_everything_is_read_back(api_server: ApiServer, client: Client) -> None:
    jobs = client.openai.fine_tuning.jobs
    job = client.submit(suffix="v1")
    trainer = Trainer(api_server, job.id)
    trainer.begin()
    trainer.train(1, 4)
    trainer.save(4)
    running = client.do(jobs.retrieve(job.id))
    assert (running.status, running.hyperparameters.n_epochs, running.hyperparameters.batch_size) == ("running", 3, 8)
    assert running.estimated_finish >= running.created_at
    assert running.model_extra["progress"]["step"] == 4
    _fails(client, openai.ConflictError, lambda: client.openai.files.delete(job.training_file))
    trainer.succeed()

    done = client.do(jobs.retrieve(job.id))
    assert done.status == "succeeded"
    assert done.fine_tuned_model.startswith("ft:tiny:default:v1:")
    assert done.finished_at >= done.created_at
    assert done.trained_tokens > 0
    events = client.collect(jobs.list_events(job.id, limit=2))
    assert len(events) >= 5
    assert len({event.id for event in events}) == len(events)
    assert "succeeded" in events[0].message
    assert [e.id for e in client.collect(jobs.list_events(job.id, extra_query={"order": "asc"}))] == [
        event.id for event in reversed(events)
    ]
    (checkpoint,) = client.collect(jobs.checkpoints.list(job.id))
    assert (checkpoint.step_number, checkpoint.metrics.step) == (4, 4)
    assert checkpoint.fine_tuned_model_checkpoint == f"{done.fine_tuned_model}:ckpt-step-4"
    (results,) = done.result_files
    assert client.do(client.openai.files.retrieve(results)).purpose == "fine-tune-results"
    assert client.do(client.openai.files.content(results)).text.startswith("step,train_loss,")

    models = client.openai.models
    assert {model.id for model in client.collect(models.list())} == {"tiny", done.fine_tuned_model}
    tuned = client.do(models.retrieve(done.fine_tuned_model))
    assert (tuned.object, tuned.owned_by) == ("model", done.organization_id)
    late = _fails(client, openai.ConflictError, lambda: jobs.cancel(job.id))
    assert late["code"] == "invalid_state"
    gone = client.do(models.delete(done.fine_tuned_model))
    assert (gone.id, gone.deleted) == (done.fine_tuned_model, True)
    _fails(client, openai.NotFoundError, lambda: models.retrieve(done.fine_tuned_model))


def test_a_failed_job_says_why_in_a_way_that_the_strict_client_takes(api_server: ApiServer, client: Client) -> None:
    job = client.submit()
    problem = FileProblem(param="training_file", line=3, code="example_too_long", message="has 300 tokens")
    api_server.launcher.validation = ValidationResult(training=None, validation=None, problems=(problem,))
    api_server.step()
    failed = client.do(client.openai.fine_tuning.jobs.retrieve(job.id))
    assert (failed.status, failed.error.param) == ("failed", "training_file")
    assert "300 tokens" in failed.error.message
    assert (failed.fine_tuned_model, failed.result_files) == (None, [])
    assert failed.finished_at >= failed.created_at
    _fails(client, openai.ConflictError, lambda: client.openai.fine_tuning.jobs.cancel(job.id))


def test_a_job_is_paused_resumed_and_cancelled(api_server: ApiServer, kind: str) -> None:
    """Pausing is not in the strict client's list of states, so this one is the default, lenient client."""
    with open_client(api_server, kind, strict=False) as client:
        jobs = client.openai.fine_tuning.jobs
        job = client.submit()
        assert client.do(jobs.pause(job.id)).status == "paused"
        assert client.do(jobs.pause(job.id)).status == "paused"
        assert client.do(jobs.resume(job.id)).status == "validating_files"
        trainer = Trainer(api_server, job.id)
        trainer.begin()
        assert client.do(jobs.pause(job.id)).status == "pausing"
        assert client.do(jobs.cancel(job.id)).model_extra["cancel_requested"] is True
        other = client.submit()
        assert client.do(jobs.cancel(other.id)).status == "cancelled"
        assert client.do(jobs.cancel(other.id)).status == "cancelled"
        problem = _fails(client, openai.ConflictError, lambda: jobs.resume(other.id))
        assert problem["code"] == "invalid_state"
    with open_client(api_server, kind) as strict:
        assert strict.do(strict.openai.fine_tuning.jobs.retrieve(other.id)).status == "cancelled"


def test_jobs_are_paged_while_others_arrive_and_found_by_metadata(client: Client) -> None:
    file_id = client.upload()
    made = [
        client.submit(training_file=file_id, metadata={"n": str(n), "a key": "a value & more"}).id for n in range(3)
    ]
    plain = client.submit(training_file=file_id).id
    jobs = client.openai.fine_tuning.jobs
    page = client.do(jobs.list(limit=2))
    client.submit(training_file=file_id, metadata={"n": "late"})
    assert [job.id for job in client.collect(page)] == [plain, *made[::-1]]
    assert len(client.collect(jobs.list(limit=2))) == 5
    one = jobs.list(metadata={"n": "1"})
    both = jobs.list(metadata={"n": "2", "a key": "a value & more"})
    assert [job.id for job in client.collect(one)] == [made[1]]
    assert [job.id for job in client.collect(both)] == [made[2]]
    assert client.collect(jobs.list(metadata={"n": ""})) == []
    assert [job.id for job in client.collect(jobs.list(extra_query={"metadata": "null"}))] == [plain]
    mixed = {"metadata": "null", "metadata[n]": "1"}
    assert _fails(client, openai.BadRequestError, lambda: jobs.list(extra_query=mixed))["param"] == "metadata"
    assert _fails(client, openai.BadRequestError, lambda: jobs.list(limit=101))["param"] == "limit"
    assert _fails(client, openai.BadRequestError, lambda: jobs.list(after="ftjob-x"))["param"] == "after"


def test_models_with_slashes_are_found(api_server: ApiServer, client: Client, tiny_model: Path) -> None:
    api_server.services.models.add(api_server.admin, "org/tiny-chat", str(tiny_model))
    found = client.do(client.openai.models.retrieve("org/tiny-chat"))
    assert (found.id, found.owned_by, found.shutdown_date) == ("org/tiny-chat", "tunepool", None)
    with api_server.http() as http:
        assert http.get("/v1/models/org/tiny-chat").json()["id"] == "org/tiny-chat"
        assert http.get("/v1/models/org%2Ftiny-chat").json()["id"] == "org/tiny-chat"
    _fails(client, openai.PermissionDeniedError, lambda: client.openai.models.delete("org/tiny-chat"))
    with open_client(api_server, "sync") as admin:
        assert admin.openai.models.delete("org/tiny-chat").deleted
    _fails(client, openai.NotFoundError, lambda: client.openai.models.retrieve("org/tiny-chat"))


def test_errors_are_the_clients_own_classes(api_server: ApiServer, client: Client, kind: str) -> None:
    jobs = client.openai.fine_tuning.jobs
    file_id = client.upload()
    unknown = _fails(client, openai.BadRequestError, lambda: jobs.create(model="nope", training_file=file_id))
    assert (unknown["code"], unknown["param"]) == ("model_not_found", "model")
    assert _fails(client, openai.NotFoundError, lambda: jobs.retrieve("ftjob-x"))["type"] == "invalid_request_error"
    with open_client(api_server, kind, key="sk-old-openai-key") as stranger:
        _fails(stranger, openai.AuthenticationError, stranger.openai.models.list)
    with open_client(api_server, kind, key=api_server.make_key(Role.VIEWER)) as viewer:
        _fails(viewer, openai.PermissionDeniedError, lambda: viewer.openai.fine_tuning.jobs.cancel("ftjob-x"))
        assert viewer.collect(viewer.openai.models.list())


def test_an_answer_that_was_lost_does_not_make_a_second_job(api_server: ApiServer, kind: str) -> None:
    key = api_server.make_key()
    with open_client(api_server, kind, key=key) as calm:
        file_id = calm.upload()
        with open_client(api_server, kind, key=key, losses=2) as unlucky:
            job = unlucky.submit(training_file=file_id, suffix="once")
            posts = [request.headers["x-stainless-retry-count"] for request in unlucky.transport.sent]
            assert posts == ["0", "1", "2"]
        jobs = calm.openai.fine_tuning.jobs
        assert [found.id for found in calm.collect(jobs.list())] == [job.id]
        second = calm.submit(training_file=file_id, suffix="once")
        assert second.id != job.id, "a request that is no retry is a wish of its own"


def test_an_answer_that_was_lost_does_not_make_a_second_file(api_server: ApiServer, kind: str) -> None:
    key, data = api_server.make_key(), tickets(3)
    with open_client(api_server, kind, key=key) as calm, open_client(api_server, kind, key=key, losses=2) as unlucky:
        made = unlucky.upload(data)
        assert [request.headers["x-stainless-retry-count"] for request in unlucky.transport.sent] == ["0", "1", "2"]
        files = calm.openai.files
        assert [file.id for file in calm.collect(files.list())] == [made]
        assert calm.do(files.content(made)).read() == data
        assert len(list(api_server.services.objects.list("teams/"))) == 1, "what a repeat stored is dropped"
        assert calm.upload(data) != made, "a request that is no retry is a wish of its own"
        unlucky.transport.losses = 1
        assert unlucky.upload(tickets(4)) != made, "a retry with other bytes is another file"


def test_an_upload_whose_answers_are_all_lost_makes_one_file(api_server: ApiServer, kind: str) -> None:
    data = tickets(3)
    ask = {"filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune", "bytes": 2 * len(data)}
    with open_client(api_server, kind) as unlucky:
        uploads, made = unlucky.openai.uploads, []
        for _ in range(2):
            unlucky.transport.losses = 1
            upload = unlucky.do(uploads.create(**ask))
            part_ids = []
            for _ in range(2):
                unlucky.transport.losses = 1
                part_ids.append(unlucky.do(uploads.parts.create(upload.id, data=data)).id)
            unlucky.transport.losses = 1
            made.append(unlucky.do(uploads.complete(upload.id, part_ids=part_ids)).file.id)
        assert len(unlucky.transport.sent) == 16
        files = unlucky.openai.files
        assert [file.id for file in unlucky.collect(files.list())] == made[::-1]
        assert unlucky.do(files.content(made[1])).read() == data + data
        stored = [item.key for item in api_server.services.objects.list("teams/")]
        assert len(stored) == 2, f"no part is left: {stored}"


def test_an_idempotency_key_makes_one_file_upload_and_part(client: Client) -> None:
    uploads, data = client.openai.uploads, tickets(3)
    ask = {"filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune", "bytes": len(data)}
    headers = {"Idempotency-Key": "mine"}

    def create_upload(**changes: Any) -> Any:
        return uploads.create(**{**ask, **changes}, extra_headers=headers)

    def add_part(sent: bytes) -> Any:
        return uploads.parts.create(upload.id, data=sent, extra_headers=headers)

    def create_file(sent: bytes) -> Any:
        return client.openai.files.create(file=("a.jsonl", sent), purpose="fine-tune", extra_headers=headers)

    upload = client.do(create_upload())
    part = client.do(add_part(data))
    assert client.do(create_upload()).id == upload.id
    assert client.do(add_part(data)).id == part.id
    assert client.do(create_file(data)).id == client.do(create_file(data)).id
    calls = [lambda: create_upload(bytes=1), lambda: add_part(data[:9]), lambda: create_file(data[:9])]
    codes = {_fails(client, openai.ConflictError, call)["code"] for call in calls}
    assert codes == {"idempotency_key_reused"}
    client.do(uploads.complete(upload.id, part_ids=[part.id]))
    assert len(client.collect(client.openai.files.list())) == 2


def test_an_idempotency_key_makes_one_job_of_one_body(client: Client) -> None:
    file_id = client.upload()
    headers = {"Idempotency-Key": "my-own-key"}
    first = client.submit(training_file=file_id, extra_headers=headers)
    assert client.submit(training_file=file_id, extra_headers=headers).id == first.id
    jobs = client.openai.fine_tuning.jobs
    other = {"model": "tiny", "training_file": file_id, "seed": 1, "extra_headers": headers}
    assert _fails(client, openai.ConflictError, lambda: jobs.create(**other))["code"] == "idempotency_key_reused"
    long = {**other, "extra_headers": {"Idempotency-Key": "k" * 256}}
    assert _fails(client, openai.BadRequestError, lambda: jobs.create(**long))["param"] == "Idempotency-Key"


def test_a_lost_answer_to_a_completion_makes_one_file(api_server: ApiServer, kind: str) -> None:
    data = tickets(3)
    ask = {"filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "fine-tune", "bytes": len(data)}
    with open_client(api_server, kind) as calm, open_client(api_server, kind, losses=2) as unlucky:
        upload = calm.do(calm.openai.uploads.create(**ask))
        part = calm.do(calm.openai.uploads.parts.create(upload.id, data=data))
        done = unlucky.do(unlucky.openai.uploads.complete(upload.id, part_ids=[part.id]))
        assert len(unlucky.transport.sent) == 3
        assert [file.id for file in calm.collect(calm.openai.files.list())] == [done.file.id]


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
def test_a_lost_answer_to_a_verb_is_repeated_in_peace(api_server: ApiServer, kind: str, verb: str) -> None:
    with open_client(api_server, kind, strict=False) as calm:
        job = calm.submit()
        if verb == "resume":
            calm.do(calm.openai.fine_tuning.jobs.pause(job.id))
        with open_client(api_server, kind, strict=False, losses=1) as unlucky:
            found = unlucky.do(getattr(unlucky.openai.fine_tuning.jobs, verb)(job.id))
        assert found.status == {"cancel": "cancelled", "pause": "paused", "resume": "validating_files"}[verb]
