"""Each of the five examples, as a reader would run it, on the real stack with the demo's own model."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.client import Tunepool
from tests.support.pages import ROOT
from tests.support.stack import RunningStack

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]
EXAMPLES = ROOT / "examples"
MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def pool(stack: RunningStack, real_model: Path) -> Iterator[Tunepool]:
    with stack.connect() as client:
        client.base_models.create(name=MODEL, location=str(real_model))
        yield client


def run(stack: RunningStack, folder: Path, *command: str) -> str:
    """What the command printed; it has to end well."""
    environment = {**os.environ, "TUNEPOOL_URL": stack.url, "TUNEPOOL_API_KEY": stack.api_key, "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def submit(stack: RunningStack, folder: Path, name: str) -> dict[str, object]:
    tunepool = str(Path(sys.executable).with_name("tunepool"))
    job: dict[str, object] = json.loads(
        run(stack, folder, tunepool, "submit", str(EXAMPLES / name), "--follow", "--json")
    )
    return job


def test_a_qlora_job_and_one_that_goes_on_from_it(stack: RunningStack, pool: Tunepool, tmp_path: Path) -> None:
    job = submit(stack, tmp_path, "qlora.yaml")
    assert job["status"] == "succeeded"
    said = run(stack, tmp_path, sys.executable, str(EXAMPLES / "continue.py"))
    assert f"goes on from {job['fine_tuned_model']}" in said
    child = pool.jobs.list(limit=1).data[0]
    assert child.status == "succeeded"
    assert child.parent is not None
    assert child.parent.job_id == job["id"]
    assert pool.adapters.manifest(child.adapter_id or "")["plan"]["quantization"] == "nf4"


def test_lora_on_all_linear_layers(stack: RunningStack, pool: Tunepool, tmp_path: Path) -> None:
    job = submit(stack, tmp_path, "lora.yaml")
    plan = pool.adapters.manifest(str(job["adapter_id"]))["plan"]
    assert plan["quantization"] == "none"
    assert len(plan["lora_target_modules"]) == 7


def test_ranks_within_their_budgets(stack: RunningStack, pool: Tunepool, tmp_path: Path) -> None:
    said = run(stack, tmp_path, sys.executable, str(EXAMPLES / "ranks.py"), "4", "8")
    rows = [line.split() for line in said.splitlines()[1:]]
    assert [(rank, status) for rank, status, *_ in rows] == [("4", "succeeded"), ("8", "succeeded")]
    assert all(float(loss) > 0 for _, _, loss, _ in rows)
    jobs = pool.jobs.list(metadata={"example": "ranks"}).data
    assert {pool.adapters.manifest(job.adapter_id or "")["plan"]["lora_r"] for job in jobs} == {4, 8}
    assert all(job.cost is not None and 0 < job.cost.billed_usd_micros <= 250_000 for job in jobs)


def test_the_openai_client(stack: RunningStack, pool: Tunepool, tmp_path: Path) -> None:
    run(stack, tmp_path, sys.executable, str(EXAMPLES / "openai_client.py"))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size > 0
