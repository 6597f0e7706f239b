"""Every call of the contract in one script for any release of the openai client: `python openai_script.py URL KEY`.

It runs in an environment of its own, so it knows nothing of this project. Somebody else must work off the jobs. Prints
the client's version when everything held.
"""

import asyncio
import json
import sys
import time

import openai

ROW = {"messages": [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "On its way."}]}
DATA = b"".join(json.dumps(ROW).encode() + b"\n" for _ in range(12))
PATIENCE_SECONDS = 120


def check_files(client):
    made = client.files.create(file=("a.jsonl", DATA), purpose="fine-tune")
    assert client.files.retrieve(made.id).status == "processed"
    assert client.files.wait_for_processing(made.id, poll_interval=0.1).id == made.id
    assert client.files.content(made.id).read() == DATA
    assert made.id in [file.id for file in client.files.list(purpose="fine-tune", limit=1)]
    upload = client.uploads.create(bytes=len(DATA), filename="b.jsonl", mime_type="text/jsonl", purpose="fine-tune")
    parts = [client.uploads.parts.create(upload.id, data=part).id for part in (DATA[:100], DATA[100:])]
    done = client.uploads.complete(upload.id, part_ids=parts)
    assert client.files.content(done.file.id).read() == DATA
    assert client.files.delete(done.file.id).deleted
    other = client.uploads.create(bytes=1, filename="c.jsonl", mime_type="text/jsonl", purpose="fine-tune")
    assert client.uploads.cancel(other.id).status == "cancelled"
    return made.id


def check_jobs(client, file_id):
    jobs = client.fine_tuning.jobs
    job = jobs.create(
        model="tiny",
        training_file=file_id,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        metadata={"client": openai.__version__},
        extra_body={"lora": {"r": 8}},
    )
    assert job.model_extra["lora"]["r"] == 8
    deadline = time.monotonic() + PATIENCE_SECONDS
    while job.status != "succeeded":
        assert job.status in {"validating_files", "queued", "running"}, job
        assert time.monotonic() < deadline, job
        time.sleep(0.1)
        job = jobs.retrieve(job.id)
    assert [found.id for found in jobs.list(metadata={"client": openai.__version__})] == [job.id]
    events = list(jobs.list_events(job.id, limit=2))
    assert len(events) > 4
    assert len({event.id for event in events}) == len(events)
    assert [point.step_number for point in jobs.checkpoints.list(job.id)] == [2]
    assert client.files.content(job.result_files[0]).text.startswith("step,train_loss,")
    return job


def check_verbs(client, file_id):
    """On a job without metadata, which the workers let wait."""
    jobs = client.fine_tuning.jobs
    job = jobs.create(model="tiny", training_file=file_id)
    if hasattr(jobs, "pause"):
        assert jobs.pause(job.id).status in {"paused", "pausing"}
    assert jobs.cancel(job.id).id == job.id
    return job.id


def check_models(client, tuned):
    assert {"tiny", "org/tiny", tuned} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("org/tiny").id == "org/tiny"
    assert client.models.retrieve(tuned).id == tuned
    assert client.models.delete(tuned).deleted
    assert refusal(lambda: client.models.retrieve(tuned)) == (openai.NotFoundError, "model_not_found", None)
    late = {"model": tuned, "training_file": "file-x"}
    assert refusal(lambda: client.fine_tuning.jobs.create(**late)) == (
        openai.BadRequestError,
        "model_not_found",
        "model",
    )


def refusal(call):
    """The class, code and param of the error that a call ends with."""
    try:
        call()
    except openai.APIStatusError as error:
        return type(error), error.code, error.param
    return None


async def check_async(client, file_id, job_id):
    file = await client.files.retrieve(file_id)
    assert file.id in [found.id async for found in client.files.list()]
    assert (await client.files.content(file_id)).read() == DATA
    assert [job async for job in client.fine_tuning.jobs.list(limit=1)]
    assert (await client.fine_tuning.jobs.retrieve(job_id)).id == job_id
    await client.close()


def main(url, key):
    options = {"base_url": url + "/v1", "api_key": key}
    strict = openai.OpenAI(**options, _strict_response_validation=True)
    file_id = check_files(strict)
    job = check_jobs(strict, file_id)
    check_verbs(openai.OpenAI(**options), file_id)
    check_models(strict, job.fine_tuned_model)
    asyncio.run(check_async(openai.AsyncOpenAI(**options), file_id, job.id))
    print(openai.__version__)


main(*sys.argv[1:])
