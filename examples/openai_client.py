"""The unmodified `openai` client against Tunepool: upload, create, follow, retrieve, and fetch the adapter.

    export TUNEPOOL_URL=http://127.0.0.1:8080 TUNEPOOL_API_KEY=tp_…
    python examples/openai_client.py

Everything that OpenAI's API has is called as it always was; what is Tunepool's own rides in `extra_body`, and comes
back as attributes of the job.
"""

import os
import sys
import time
from pathlib import Path

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

DATA = Path(__file__).parent / "demo" / "data" / "train.jsonl"
FINAL = {"succeeded", "failed", "cancelled"}


def main() -> int:
    client = OpenAI(base_url=f"{os.environ['TUNEPOOL_URL']}/v1", api_key=os.environ["TUNEPOOL_API_KEY"])
    model = os.environ.get("MODEL", "smollm2-135m-instruct")
    with DATA.open("rb") as data:
        file = client.files.create(file=data, purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=model,
        training_file=file.id,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 4}}},
        extra_body={"quantization": {"type": "nf4"}, "lora": {"r": 16}, "max_cost_usd": "0.50"},
    )
    print(f"{job.id}: {job.status}")
    job = follow(client, job)
    if job.status != "succeeded":
        print(f"{job.status}: {job.error and job.error.message}")
        return 1
    print(f"{job.fine_tuned_model}, {job.trained_tokens} tokens")
    results = client.files.content(job.result_files[0]).text
    print(f"the last of {len(results.splitlines()) - 1} rows of figures: {results.splitlines()[-1]}")
    fetch_adapter(client, job.model_extra["adapter_id"], Path("adapter"))
    return 0


def follow(client: OpenAI, job: FineTuningJob) -> FineTuningJob:
    """Print new events, oldest first, until the job is over."""
    seen: set[str] = set()
    while True:
        job = client.fine_tuning.jobs.retrieve(job.id)
        events = client.fine_tuning.jobs.list_events(job.id, limit=50).data
        for event in reversed([event for event in events if event.id not in seen]):
            seen.add(event.id)
            print(f"{event.level:5}  {event.message}")
        if job.status in FINAL:
            return job
        time.sleep(2)


def fetch_adapter(client: OpenAI, adapter_id: str, folder: Path) -> None:
    """OpenAI has no route for weights, so this asks Tunepool's own, with the client's own key and transport."""
    folder.mkdir(exist_ok=True)
    listed = client.get(f"/adapters/{adapter_id}/files", cast_to=object)
    for file in listed["data"]:
        name = Path(file["name"]).name
        with client._client.stream("GET", file["url"]) as answer:  # presigned: it needs no key
            answer.raise_for_status()
            (folder / name).write_bytes(answer.read())
        print(f"{folder / name}: {file['size_bytes']} bytes")


if __name__ == "__main__":
    sys.exit(main())
