"""Every call of the openai client that the server promises, from an upload to a tuned model that is deleted again.

A program of its own that imports nothing but `openai`, so that it runs in an environment with any version of it:

    python openai_contract.py URL API_KEY MODEL OTHER_MODEL

Both base models are registered, OTHER_MODEL's name has a slash, and somebody works off the jobs. Prints the client's
version when everything held. Clients are strict about answers, but for a paused job's: its status is none of the
published ones.
"""

import asyncio
import hashlib
import io
import json
import sys
import time
from typing import Any

import openai

PATIENCE_SECONDS = 300
PART_BYTES = 700
FINAL = ("succeeded", "failed", "cancelled")
CHECKPOINT_STEPS = 2


def main() -> None:
    url, api_key, model, other_model = sys.argv[1:5]
    options: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": api_key}
    strict = openai.OpenAI(**options, _strict_response_validation=True)
    data = make_rows()
    file_id = use_files(strict, data)
    use_uploads(strict, data)
    job = use_jobs(strict, model, file_id)
    use_verbs(openai.OpenAI(**options), model, file_id)
    use_models(strict, {model, other_model}, job.fine_tuned_model)
    use_errors(strict, job)
    asyncio.run(use_async(openai.AsyncOpenAI(**options, _strict_response_validation=True), file_id, job.id, data))
    sys.stdout.write(openai.__version__)


def make_rows() -> bytes:
    """A chat file of three batches of four rows."""
    turns = [(f"What is {n} and {n + 1}?", f"It is {2 * n + 1}.") for n in range(12)]
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked, answer in turns
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def use_files(client: openai.OpenAI, data: bytes) -> str:
    """create, retrieve, wait, content, list with paging, delete; returns the id of one that stays."""
    made = [client.files.create(file=(f"rows-{n}.jsonl", data), purpose="fine-tune") for n in range(3)]
    assert client.files.wait_for_processing(made[0].id, poll_interval=0.1).status == "processed"
    assert client.files.retrieve(made[0].id).bytes == len(data)
    assert client.files.content(made[0].id).read() == data
    listed = [file.id for file in client.files.list(limit=2, purpose="fine-tune")]
    assert {file.id for file in made} <= set(listed)
    assert len(listed) == len(set(listed))
    assert client.files.delete(made[2].id).deleted
    assert refusal(client.files.retrieve, made[2].id) == (openai.NotFoundError, "not_found", None)
    return made[0].id


def use_uploads(client: openai.OpenAI, data: bytes) -> None:
    """create, parts, complete with a checksum; cancel; and the client's own helper for chunks."""
    asked: dict[str, Any] = {"filename": "big.jsonl", "mime_type": "application/jsonl", "purpose": "fine-tune"}
    upload = client.uploads.create(bytes=len(data), **asked)
    chunks = [data[start : start + PART_BYTES] for start in range(0, len(data), PART_BYTES)]
    parts = [client.uploads.parts.create(upload.id, data=io.BytesIO(chunk)) for chunk in chunks]
    digest = hashlib.md5(data).hexdigest()
    done = client.uploads.complete(upload.id, part_ids=[part.id for part in parts], md5=digest)
    assert done.status == "completed"
    assert done.file is not None
    assert client.files.content(done.file.id).read() == data
    dropped = client.uploads.create(bytes=10, **asked)
    assert client.uploads.cancel(dropped.id).status == "cancelled"
    helped = client.uploads.upload_file_chunked(file=data, bytes=len(data), **asked)
    assert helped.status == "completed"


def use_jobs(client: openai.OpenAI, model: str, file_id: str) -> Any:
    """create, list by metadata, retrieve, events, checkpoints, result file; returns the succeeded job."""
    jobs = client.fine_tuning.jobs
    metadata = {"client": openai.__version__}
    job = jobs.create(
        model=model,
        training_file=file_id,
        validation_file=file_id,
        method=supervised(epochs=2),
        suffix="contract",
        seed=3,
        metadata=metadata,
        extra_body={"lora": {"r": 4}, "training": {"checkpoint_steps": CHECKPOINT_STEPS}},
    )
    assert job.seed == 3
    assert job.model_extra is not None
    assert job.model_extra["lora"]["r"] == 4
    done = wait_for(client, job.id, *FINAL)
    assert done.status == "succeeded", done.error
    assert done.finished_at
    assert done.trained_tokens
    assert [found.id for found in jobs.list(metadata=metadata)] == [job.id]
    events = [event.id for event in jobs.list_events(job.id, limit=3)]
    assert len(events) == len(set(events)) > 5
    checkpoints = [checkpoint.step_number for checkpoint in jobs.checkpoints.list(job.id, limit=1)]
    assert CHECKPOINT_STEPS in checkpoints
    assert len(checkpoints) == len(set(checkpoints))
    assert client.files.content(done.result_files[0]).text.startswith("step,train_loss,")
    return done


def use_verbs(client: openai.OpenAI, model: str, file_id: str) -> None:
    """pause, resume, cancel, on a job that is long enough for them and has no metadata."""
    jobs = client.fine_tuning.jobs
    job = jobs.create(model=model, training_file=file_id, method=supervised(epochs=50))
    wait_for(client, job.id, "running")
    assert jobs.pause(job.id).status in {"pausing", "paused"}
    wait_for(client, job.id, "paused")
    assert jobs.resume(job.id).status in {"queued", "running"}
    assert jobs.cancel(job.id).id == job.id
    wait_for(client, job.id, "cancelled")


def use_models(client: openai.OpenAI, bases: set[str], tuned: str) -> None:
    """list, retrieve, delete."""
    names = bases | {tuned}
    assert names <= {model.id for model in client.models.list()}
    assert {client.models.retrieve(name).id for name in names} == names
    assert client.models.delete(tuned).deleted
    assert refusal(client.models.retrieve, tuned) == (openai.NotFoundError, "model_not_found", None)


def use_errors(client: openai.OpenAI, ended: Any) -> None:
    """What goes wrong is told in the client's own exceptions. The ended job's model is deleted."""
    jobs = client.fine_tuning.jobs
    for name in ("no-such-model", ended.fine_tuned_model):
        refused = refusal(jobs.create, model=name, training_file="file-x")
        assert refused == (openai.BadRequestError, "model_not_found", "model")
    assert refusal(jobs.cancel, ended.id)[0] is openai.ConflictError
    assert refusal(jobs.retrieve, "ftjob-unknown")[0] is openai.NotFoundError
    assert refusal(client.with_options(api_key="wrong").models.list)[0] is openai.AuthenticationError


async def use_async(client: openai.AsyncOpenAI, file_id: str, job_id: str, data: bytes) -> None:
    """One call of each kind: an object, pages, content."""
    file = await client.files.retrieve(file_id)
    assert file.id in [found.id async for found in client.files.list(limit=1)]
    assert (await client.files.content(file_id)).read() == data
    assert job_id in [job.id async for job in client.fine_tuning.jobs.list(limit=1)]
    assert (await client.fine_tuning.jobs.retrieve(job_id)).id == job_id
    await client.close()


def supervised(*, epochs: int) -> Any:
    return {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": 4}}}


def refusal(call: Any, *args: Any, **options: Any) -> tuple[type[Exception], Any, Any]:
    """The class, code and param of the error that a call must end with."""
    try:
        call(*args, **options)
    except openai.APIStatusError as error:
        return type(error), error.code, error.param
    raise AssertionError(f"{call} was not refused")


def wait_for(client: openai.OpenAI, job_id: str, *statuses: str) -> Any:
    """The job, once it has one of the statuses; not one of the final ones unless that is asked for."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        job = client.fine_tuning.jobs.retrieve(job_id)
        if job.status in statuses:
            return job
        assert job.status not in FINAL, job
        time.sleep(0.1)
    raise AssertionError(f"waited {PATIENCE_SECONDS} s for {job_id} to be {' or '.join(statuses)}")


if __name__ == "__main__":
    main()
