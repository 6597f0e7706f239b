"""The main job on a live stack: idle memory, submit to first step, a log line's way to a reader.

`python -m tests.bench.main_job [--model tiny|smollm2]`
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

import psutil

from api.client import Tunepool
from api.stack import processes
from api.stack.folder import load_secrets, open_folder
from tests.bench.machine import percentile, print_table
from tests.e2e.jobs import MODEL, make_spec, write_rows
from tests.support.models import build_tiny_model, real_model_folder
from tests.support.stack import RunningStack, run_stack, wait_final

STEPS = 120
FIRST_STEPS = 5
SETTLE_SECONDS = 15
"""Memory is read so long after the stack is ready, when start-up garbage is gone."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["tiny", "smollm2"], default="tiny")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tp") as name:
        folder = Path(name)
        model = real_model_folder() if asked.model == "smollm2" else build_tiny_model(folder / "model")
        with run_stack(folder / "data", lease_seconds=120, torch_threads=None) as stack, stack.connect() as client:
            _idle_memory(stack)
            client.base_models.create(name=MODEL, location=str(model))
            file_id = client.files.create(write_rows(folder / "train.jsonl")).id
            _first_steps(client, file_id, asked.model)
            _log_latency(client, file_id, asked.model)


def _idle_memory(stack: RunningStack) -> None:
    """Proportional set sizes, so that shared pages count once."""
    time.sleep(SETTLE_SECONDS)
    folder = open_folder(stack.folder)
    mark = processes.mark_of(load_secrets(folder).stack_id, folder.root)
    rows, total = [], 0
    for part in ("objects", "ray", "api", "scheduler"):
        pss = sum(_pss_bytes(pid) for pid in processes.find_marked(mark, part=part))
        total += pss
        rows.append([part, f"{pss / 1024**2:.0f} MiB"])
    print_table("Memory of the idle stack (PSS)", ["part", "memory"], [*rows, ["all", f"{total / 1024**2:.0f} MiB"]])


def _pss_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_full_info().pss)
    except psutil.Error:
        return 0


def _first_steps(client: Tunepool, file_id: str, model: str) -> None:
    """From the call of create to the end of the first optimizer step, by the clocks of one machine."""
    rows = []
    for label in ("cold (nothing cached)", "warm", "warm again"):
        submitted = time.time()
        job = client.jobs.create(**make_spec(client, file_id, steps=FIRST_STEPS))
        assert wait_final(client, job.id, seconds=600).status == "succeeded"
        first = min(point.at for point in client.jobs.metrics(job.id) if "train_loss" in point.values)
        queued = next(e.created_at for e in client.jobs.events(job.id) if (e.data or {}).get("state") == "queued")
        rows.append([label, f"{first - submitted:.1f} s", f"{queued - submitted:.0f} s"])
    print_table(f"Submit to first step, {model}", ["run", "first step after", "of it until queued"], rows)


def _log_latency(client: Tunepool, file_id: str, model: str) -> None:
    """Journal entry to reader, over Ray, the database and server-sent events: metrics of a running job."""
    job = client.jobs.create(**make_spec(client, file_id, steps=STEPS))
    seen: list[float] = []

    def follow() -> None:
        seen.extend(time.time() - point.at for point in client.jobs.metrics(job.id, follow=True))

    reader = threading.Thread(target=follow)
    reader.start()
    wait_final(client, job.id, seconds=600)
    reader.join()
    row = [f"{1000 * percentile(seen, share):.0f} ms" for share in (0.5, 0.95, 0.99, 1.0)]
    print_table(f"Report to reader, {model}, {len(seen)} reports", ["p50", "p95", "p99", "max"], [row])


if __name__ == "__main__":
    main()
