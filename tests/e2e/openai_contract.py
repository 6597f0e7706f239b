"""Every call of the openai client that the server promises, on a live server, to a succeeded job and its adapter.

A program of its own that imports nothing but `openai`, so that it runs in an environment with any version of it:

    python openai_contract.py BASE_URL API_KEY MODEL TRAINING_FILE
"""

import hashlib
import io
import sys
import time
from pathlib import Path
from typing import Any

import openai
from openai import OpenAI

FINAL = ("succeeded", "failed", "cancelled")
PART_BYTES = 700


def main() -> None:
    base_url, api_key, model, training = sys.argv[1:5]
    client = OpenAI(base_url=f"{base_url}/v1", api_key=api_key, _strict_response_validation=True)
    data = Path(training).read_bytes()
    file_id = use_files(client, data)
    use_uploads(client, data)
    fine_tuned = use_jobs(client, model, file_id)
    use_models(client, model, fine_tuned)
    use_errors(client)
    sys.stdout.write(f"openai {openai.__version__}: every call answered\n")


def use_files(client: OpenAI, data: bytes) -> str:
    """create, retrieve, wait, content, list with paging, delete."""
    made = [client.files.create(file=(f"rows-{n}.jsonl", data), purpose="fine-tune") for n in range(3)]
    assert client.files.wait_for_processing(made[0].id).status == "processed"
    assert client.files.retrieve(made[0].id).bytes == len(data)
    assert client.files.content(made[0].id).read() == data
    listed = [file.id for file in client.files.list(limit=2, purpose="fine-tune")]
    assert {file.id for file in made} <= set(listed)
    assert len(listed) == len(set(listed))
    assert client.files.delete(made[2].id).deleted
    expect(openai.NotFoundError, client.files.retrieve, made[2].id)
    return made[0].id


def use_uploads(client: OpenAI, data: bytes) -> None:
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
    helped = client.uploads.upload_file_chunked(
        file=data, bytes=len(data), filename="helped.jsonl", mime_type="application/jsonl", purpose="fine-tune"
    )
    assert helped.status == "completed"


def use_jobs(client: OpenAI, model: str, file_id: str) -> str:
    """create, list, retrieve, events, pause, resume, cancel, checkpoints; returns the fine-tuned model's name."""
    jobs = client.fine_tuning.jobs
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 40, "batch_size": 4}}}
    job = jobs.create(
        model=model,
        training_file=file_id,
        validation_file=file_id,
        method=method,
        suffix="contract",
        seed=3,
        metadata={"run": "contract"},
        extra_body={"lora": {"r": 4}, "training": {"checkpoint_steps": 10}},
    )
    assert job.seed == 3
    assert job.id in [found.id for found in jobs.list(limit=1)]
    wait_until(lambda: jobs.retrieve(job.id).status == "running", "the job to run")
    assert jobs.pause(job.id).status in {"pausing", "paused", "running"}
    wait_until(lambda: lenient(client).fine_tuning.jobs.retrieve(job.id).status == "paused", "the pause")
    assert jobs.resume(job.id).status in {"queued", "running"}
    doomed = jobs.create(model=model, training_file=file_id, method=method)
    jobs.cancel(doomed.id)
    wait_until(lambda: jobs.retrieve(doomed.id).status == "cancelled", "the cancel")
    wait_until(lambda: jobs.retrieve(job.id).status in FINAL, "the job's end")
    done = jobs.retrieve(job.id)
    assert done.status == "succeeded", done.error
    assert done.fine_tuned_model
    assert done.finished_at
    assert done.trained_tokens
    events = [event.id for event in jobs.list_events(job.id, limit=3)]
    assert len(events) == len(set(events)) > 5
    checkpoints = list(jobs.checkpoints.list(job.id, limit=2))
    assert {10, 20} <= {checkpoint.step_number for checkpoint in checkpoints}
    assert client.files.content(done.result_files[0]).text.startswith("step,")
    expect(openai.ConflictError, jobs.cancel, job.id)
    return done.fine_tuned_model


def use_models(client: OpenAI, base: str, fine_tuned: str) -> None:
    """list, retrieve, delete."""
    assert {base, fine_tuned} <= {model.id for model in client.models.list()}
    assert client.models.retrieve(fine_tuned).id == fine_tuned
    assert client.models.delete(fine_tuned).deleted
    expect(openai.NotFoundError, client.models.retrieve, fine_tuned)


def use_errors(client: OpenAI) -> None:
    """What goes wrong is told in the client's own exceptions."""
    expect(openai.BadRequestError, client.fine_tuning.jobs.create, model="no-such-model", training_file="file-x")
    expect(openai.NotFoundError, client.fine_tuning.jobs.retrieve, "ftjob-unknown")
    expect(openai.AuthenticationError, client.with_options(api_key="wrong").models.list)


def lenient(client: OpenAI) -> OpenAI:
    """A client that takes the status 'paused', which the published schema lacks."""
    return OpenAI(base_url=client.base_url, api_key=client.api_key)


def expect(kind: type[Exception], call: Any, *args: Any, **options: Any) -> None:
    try:
        call(*args, **options)
    except kind:
        return
    raise AssertionError(f"{call} did not raise {kind.__name__}")


def wait_until(condition: Any, what: str, *, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except openai.APIResponseValidationError:
            pass  # 'pausing' and 'paused' in strict mode
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds:g} s for {what}")


if __name__ == "__main__":
    main()
