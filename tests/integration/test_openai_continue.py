"""Continuing from a fine-tuned model with the unmodified openai client, strict about every answer."""

import json
from collections.abc import Iterator

import openai
import pytest

from tests.support.openai_clients import Client, open_client
from tests.support.servers import ApiServer
from tests.support.trainers import Trainer


@pytest.fixture
def client(api_server: ApiServer) -> Iterator[Client]:
    api_server.services.teams.create(api_server.admin, "thieves")
    with open_client(api_server, "sync", key=api_server.make_key()) as opened:
        yield opened


@pytest.fixture
def tuned(api_server: ApiServer, client: Client) -> str:
    """The name of a fine-tuned model of rank 8."""
    job = client.submit(suffix="v1", extra_body={"lora": {"r": 8, "alpha": 8}})
    trainer = Trainer(api_server, job.id)
    trainer.begin()
    trainer.succeed()
    return str(client.openai.fine_tuning.jobs.retrieve(job.id).fine_tuned_model)


def _fails(client: Client, error: type[openai.APIStatusError], **fields: object) -> dict[str, str]:
    sent = len(client.transport.sent)
    file_id = client.upload()
    with pytest.raises(error) as caught:
        client.submit(training_file=file_id, **fields)
    assert len(client.transport.sent) == sent + 2
    assert isinstance(caught.value.body, dict)
    return caught.value.body


def test_a_fine_tuned_model_is_continued_from(api_server: ApiServer, client: Client, tuned: str) -> None:
    job = client.submit(model=tuned, suffix="v2")
    assert job.model == tuned
    assert job.model_extra["parent"]["name"] == tuned
    assert (job.model_extra["lora"]["r"], job.model_extra["lora"]["alpha"]) == (8, 8)
    trainer = Trainer(api_server, job.id)
    trainer.begin()
    spec = api_server.launcher.worker(trainer.attempt.attempt_id).launch.spec
    assert spec.parent is not None
    assert (spec.parent.name, spec.model.name) == (tuned, "tiny")

    sent = len(client.transport.sent)
    with pytest.raises(openai.ConflictError) as caught:
        client.openai.models.delete(tuned)
    assert len(client.transport.sent) == sent + 1
    assert caught.value.code == "model_in_use"

    trainer.succeed()
    done = client.openai.fine_tuning.jobs.retrieve(job.id)
    assert done.status == "succeeded"
    assert done.fine_tuned_model == f"ft:tiny:default:v2:{job.id[-8:]}"
    assert client.openai.models.delete(tuned).deleted
    adapter = json.loads(client.openai.get(f"/adapters/{done.model_extra['adapter_id']}", cast_to=str))
    manifest = json.loads(client.openai.get(f"/adapters/{adapter['id']}/manifest", cast_to=str))
    assert adapter["parent"] == manifest["parent"] == job.model_extra["parent"]


def test_what_cannot_be_continued_names_its_field(api_server: ApiServer, client: Client, tuned: str) -> None:
    wrong = _fails(client, openai.BadRequestError, model=tuned, extra_body={"lora": {"r": 4}})
    assert (wrong["code"], wrong["param"]) == ("differs_from_parent", "lora.r")
    unknown = _fails(client, openai.BadRequestError, model="ft:tiny:default:v1:00000000")
    with open_client(api_server, "sync", key=api_server.make_key(team="thieves")) as thief:
        anothers = _fails(thief, openai.BadRequestError, model=tuned)
    assert anothers["message"] == unknown["message"].replace("ft:tiny:default:v1:00000000", tuned)
    assert (anothers["code"], anothers["param"], anothers["type"]) == ("model_not_found", "model", unknown["type"])


def test_an_estimate_of_a_continued_job(client: Client, tuned: str) -> None:
    answer = client.openai.post("/estimates", body={"model": tuned, "rows": 20}, cast_to=str)
    assert json.loads(answer)["plan"]["lora_r"] == 8
