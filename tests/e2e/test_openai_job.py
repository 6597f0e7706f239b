"""The unmodified openai client runs a job on a live server, to succeeded, and reads the adapter back."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import ConflictError, OpenAI
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.e2e.jobs import MODEL, write_rows
from tests.support.stack import RunningStack, wait_for

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # PEFT's own
]


@pytest.fixture(scope="module")
def openai(stack: RunningStack, tiny_model: Path) -> Iterator[OpenAI]:
    with stack.connect() as client:
        client.base_models.create(name=MODEL, location=str(tiny_model))
    with OpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key, _strict_response_validation=True) as connected:
        yield connected


def test_a_job_from_upload_to_adapter(stack: RunningStack, openai: OpenAI, tiny_model: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "train.jsonl")
    file = openai.files.create(file=rows, purpose="fine-tune")
    assert openai.files.wait_for_processing(file.id).status == "processed"
    job = openai.fine_tuning.jobs.create(
        model=MODEL,
        training_file=file.id,
        validation_file=file.id,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 4}}},
        suffix="sums",
        extra_body={"quantization": {"type": "nf4"}, "lora": {"r": 4}, "training": {"checkpoint_steps": 4}},
    )

    def ended() -> str | None:
        status = openai.fine_tuning.jobs.retrieve(job.id).status
        return status if status in {"succeeded", "failed", "cancelled"} else None

    assert wait_for(ended, "the job to end", seconds=240) == "succeeded"
    done = openai.fine_tuning.jobs.retrieve(job.id)
    assert done.fine_tuned_model is not None
    assert done.trained_tokens
    assert done.error is None
    messages = [event.message for event in openai.fine_tuning.jobs.list_events(job.id)]
    assert len(messages) >= 5
    checkpoints = list(openai.fine_tuning.jobs.checkpoints.list(job.id))
    assert {c.step_number for c in checkpoints} >= {4, 8}
    results = openai.files.content(done.result_files[0]).text.splitlines()
    assert results[0].startswith("step,")
    assert [int(row.split(",")[0]) for row in results[1:]] == list(range(13))
    assert done.fine_tuned_model in {model.id for model in openai.models.list()}

    folder = _download_adapter(stack, done.fine_tuned_model, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapter = PeftModel.from_pretrained(base, folder)
    assert adapter.peft_config["default"].r == 4
    assert openai.models.delete(done.fine_tuned_model).deleted


@pytest.mark.slow
def test_a_job_continues_from_the_adapter_of_another(stack: RunningStack, openai: OpenAI, tmp_path: Path) -> None:
    """Its loss begins where the first one's ended, and the first one's model stays as long as the job runs."""
    file = openai.files.create(file=write_rows(tmp_path / "train.jsonl"), purpose="fine-tune")
    shared = {"training_file": file.id, "validation_file": file.id, "suffix": "more"}
    training = {"max_steps": 4, "micro_batch_size": 2, "eval_steps": 4, "learning_rate": 1e-2, "checkpoint_steps": 2}
    parent = openai.fine_tuning.jobs.create(
        model=MODEL, **shared, extra_body={"lora": {"r": 4}, "quantization": {"type": "nf4"}, "training": training}
    )
    name = _wait_for_model(openai, parent.id)
    child = openai.fine_tuning.jobs.create(model=name, **shared, extra_body={"training": training})
    with pytest.raises(ConflictError):
        openai.models.delete(name)
    tuned = _wait_for_model(openai, child.id)
    assert tuned == f"ft:{MODEL}:{name.split(':')[2]}:more:{child.id[-8:]}"

    first, second = _manifest_of(stack, name), _manifest_of(stack, tuned)
    assert first["metrics"]["eval_loss"] < first["metrics"]["eval_loss_before"]
    assert second["metrics"]["eval_loss_before"] == pytest.approx(first["metrics"]["eval_loss"], rel=1e-4)
    assert second["plan"]["lora_r"] == 4
    assert second["plan"]["quantization"] == "nf4"
    assert (second["parent"]["name"], second["parent"]["job_id"]) == (name, parent.id)

    last = next(iter(openai.fine_tuning.jobs.checkpoints.list(parent.id)))
    third = openai.fine_tuning.jobs.create(
        model=last.fine_tuned_model_checkpoint, **shared, extra_body={"training": training | {"max_steps": 1}}
    )
    assert openai.models.delete(name).deleted
    assert _manifest_of(stack, _wait_for_model(openai, third.id))["parent"]["step"] == last.step_number


def _wait_for_model(openai: OpenAI, job_id: str) -> str:
    """The fine-tuned model's name, once the job has succeeded."""

    def ended() -> str | None:
        status = openai.fine_tuning.jobs.retrieve(job_id).status
        return status if status in {"succeeded", "failed", "cancelled"} else None

    assert wait_for(ended, "the job to end", seconds=240) == "succeeded"
    model = openai.fine_tuning.jobs.retrieve(job_id).fine_tuned_model
    assert model is not None
    return model


def _manifest_of(stack: RunningStack, name: str) -> dict[str, Any]:
    with stack.connect() as client:
        adapter = next(adapter for adapter in client.adapters.list() if adapter.name == name)
        return client.adapters.manifest(adapter.id)


def _download_adapter(stack: RunningStack, name: str, folder: Path) -> Path:
    """By plain HTTP, so that the checksums are checked by nobody but this test."""
    headers = {"Authorization": f"Bearer {stack.api_key}"}
    with httpx2.Client(base_url=stack.url, headers=headers, trust_env=False) as http:
        adapters = http.get("/v1/adapters").json()["data"]
        found = next(a for a in adapters if a["name"] == name)
        files = http.get(f"/v1/adapters/{found['id']}/files").json()["data"]
    folder.mkdir()
    for file in files:
        content = httpx2.get(file["url"], trust_env=False).content
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        (folder / file["name"]).write_bytes(content)
    return folder
