"""What a training process on a CPU really took, and what was predicted of it, for the same plan.

A run is `python -m workers train` in a process of its own: the probe of the longest rows, and as many steps as make a
peak that no later one passes.
"""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.protocol import DeviceGrant
from orchestrator.domain.trace import build_question
from tests.support.models import ROOT
from tests.support.training import make_attempt, make_plan, outcomes, read_reports

HEAD_TOKENS = 9
"""Of `make_full_rows`, before the first that is learned: a system message of one word and the turns' marks."""
STEPS = 2
RUN_SECONDS = 800


CASES = [
    {"quantization": quantization, "micro_batch_rows": rows, "max_seq_tokens": tokens, "gradient_checkpointing": again}
    for quantization, rows, tokens, again in itertools.product(("none", "nf4"), (1, 4), (64, 256, 512), (False, True))
]


def make_case(**changes: Any) -> TrainingPlan:
    """A plan of rank 16 in bfloat16, of a few steps."""
    shared = {"epochs": 1, "max_steps": STEPS, "lora_r": 16, "lora_alpha": 32, "compute_dtype": "bfloat16"}
    return make_plan(**shared, learning_rate=1e-4, **changes)


def predict_peak_bytes(model: Path, plan: TrainingPlan) -> int:
    """The tracer's figure for the whole process, asked as the control plane asks."""
    question = build_question(plan, json.loads((model / "config.json").read_text()), "cpu")
    done = subprocess.run(
        [sys.executable, "-m", "workers.estimator"],
        cwd=ROOT,
        input=json.dumps(question) + "\n",
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=True,
    )
    return int(json.loads(done.stdout)["peak_device_bytes"])


def make_full_rows(count: int, tokens: int) -> Iterator[dict[str, Any]]:
    """Rows of about `tokens` tokens, nearly all of them learned, no two equally long: so every batch is padded."""
    for number in range(count):
        words = " red" * (tokens - HEAD_TOKENS - number)
        yield {"messages": [{"role": "system", "content": "a"}, {"role": "assistant", "content": words.strip()}]}


def measure_peak_bytes(folder: Path, model: Path, plan: TrainingPlan, *, reserved_bytes: int = 2**34) -> int:
    """The highest resident set that a real run of `plan` reports, on rows as long as the plan allows."""
    rows = list(make_full_rows(STEPS * plan.batch_rows, plan.max_seq_tokens))
    device = DeviceGrant(device_id="node/cpu:0", kind="cpu", index=0, device_bytes=2**34, reserved_bytes=reserved_bytes)
    spec = make_attempt(folder, model, plan=plan, rows=rows, device=device)
    path = folder / "spec.json"
    path.write_text(spec.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "workers", "train", str(path)],
        cwd=ROOT,
        env={name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    local = Path(spec.work_dir) / "local"
    ended = [outcome["kind"] for outcome in outcomes(local)]
    if done.returncode or ended != ["succeeded"]:
        raise RuntimeError(f"the run ended with {done.returncode}, {ended}: {done.stderr[-2000:]}")
    return max(report["device_bytes"] for report in read_reports(local, "peak"))
