"""Go on from an adapter: a second job whose model is the first one's result, with new rows and a lower rate.

    export TUNEPOOL_URL=http://127.0.0.1:8080 TUNEPOOL_API_KEY=tp_…
    python examples/continue.py                 # from the newest adapter
    python examples/continue.py ft:smollm2-135m-instruct:default:lanternfold:0a1b2c3d

Rank, targets and quantization are as they were; the optimizer starts anew. Nothing of the first adapter is changed.
"""

import sys
from pathlib import Path

from api.client import Tunepool

DATA = Path(__file__).parent / "demo" / "data"


def main() -> int:
    with Tunepool() as client:
        parent = sys.argv[1] if len(sys.argv) > 1 else newest_adapter(client)
        data = client.files.create(DATA / "heldout.jsonl")
        job = client.jobs.create(
            model=parent,
            training_file=data.id,
            suffix="more",
            training={"learning_rate": 1e-4, "max_steps": 8},
            max_cost_usd="0.25",
        )
        print(f"{job.id} goes on from {parent}")
        done = client.jobs.wait(job.id)
        if done.status != "succeeded":
            print(f"{done.status}: {done.error and done.error.message}")
            return 1
        print(f"{done.fine_tuned_model}: {done.trained_tokens} tokens, ${done.cost.billed_usd if done.cost else 0}")
        return 0


def newest_adapter(client: Tunepool) -> str:
    found = next(iter(client.adapters.list()), None)
    if found is None:
        sys.exit("there is no adapter to go on from yet; `tunepool submit examples/qlora.yaml --follow` makes one")
    return found.name


if __name__ == "__main__":
    sys.exit(main())
