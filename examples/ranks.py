"""Which rank is enough? The same job with several ranks, each with a limit on what it may cost, compared at the end.

    export TUNEPOOL_URL=http://127.0.0.1:8080 TUNEPOOL_API_KEY=tp_…
    python examples/ranks.py            # 8, 16 and 32
    python examples/ranks.py 4 64

They run beside each other as far as the pool has room. A job that reaches its limit stops, and keeps a checkpoint.
"""

import os
import sys
from pathlib import Path

from api.client import Tunepool
from api.client.results import Job

DATA = Path(__file__).parent / "demo" / "data"
RANKS = (8, 16, 32)
LIMIT_USD = "0.25"


def main() -> int:
    ranks = [int(text) for text in sys.argv[1:]] or RANKS
    with Tunepool() as client:
        train, heldout = (client.files.create(DATA / name).id for name in ("train.jsonl", "heldout.jsonl"))
        jobs = {rank: submit(client, rank, train, heldout).id for rank in ranks}
        print(f"{'rank':>4}  {'status':10}  {'validation loss':>15}  {'cost':>9}")
        ended = [(rank, client.jobs.wait(job_id)) for rank, job_id in jobs.items()]
        for rank, job in ended:
            loss, cost = last_validation_loss(client, job), job.cost.billed_usd if job.cost else "0"
            print(f"{rank:4}  {job.status:10}  {loss:>15}  {'$' + cost:>9}")
    return 0 if all(job.status == "succeeded" for _, job in ended) else 1


def submit(client: Tunepool, rank: int, train: str, heldout: str) -> Job:
    return client.jobs.create(
        model=os.environ.get("MODEL", "smollm2-135m-instruct"),
        training_file=train,
        validation_file=heldout,
        suffix=f"r{rank}",
        seed=7,
        metadata={"example": "ranks", "rank": str(rank)},
        lora={"r": rank},
        quantization={"type": "nf4"},
        training={"max_steps": 12, "eval_steps": 6, "learning_rate": 1e-3},
        max_cost_usd=LIMIT_USD,
    )


def last_validation_loss(client: Tunepool, job: Job) -> str:
    losses = [point.values["eval_loss"] for point in client.jobs.metrics(job.id) if "eval_loss" in point.values]
    return f"{losses[-1]:.4f}" if losses else "-"


if __name__ == "__main__":
    sys.exit(main())
