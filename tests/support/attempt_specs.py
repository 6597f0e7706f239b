"""Specs of attempts whose training process is the stub, and small helpers to follow what it does."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from orchestrator.domain.ids import new_attempt_id
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.protocol import (
    AttemptSpec,
    DeviceGrant,
    Entry,
    ModelSource,
    RemoteFile,
    UploadGrant,
    ValidationSpec,
)

MIB = 1024**2
STUB_COMMAND = (sys.executable, str(Path(__file__).with_name("child_stub.py")))
SIGNATURE = "c0ffee" * 10
POLICY = "eyJleHBpcmF0aW9uIjogIjIwMjYtMTEtMjMifQ=="
FILE_URL = f"http://127.0.0.1:9/bucket/teams/t/files/f?X-Amz-Expires=900&X-Amz-Signature={SIGNATURE}"

PLAN = TrainingPlan(
    method="supervised",
    epochs=1,
    max_steps=None,
    batch_rows=1,
    micro_batch_rows=1,
    accumulation_steps=1,
    max_seq_tokens=64,
    packing=False,
    gradient_checkpointing=False,
    learning_rate=1e-4,
    optimizer="adamw",
    scheduler="linear",
    warmup_ratio=0.0,
    weight_decay=0.0,
    max_grad_norm=1.0,
    eval_steps=None,
    checkpoint_steps=None,
    checkpoint_seconds=None,
    seed=1,
    lora_r=8,
    lora_alpha=16,
    lora_dropout=0.0,
    lora_target_modules=("q_proj",),
    lora_bias="none",
    use_rslora=False,
    use_dora=False,
    lora_init="default",
    quantization="none",
    double_quant=False,
    compute_dtype="float32",
)


def make_grant(prefix: str = "jobs/j/attempts/0001-a/") -> UploadGrant:
    fields = {"key": prefix + "${filename}", "policy": POLICY, "x-amz-signature": SIGNATURE}
    return UploadGrant(url="http://127.0.0.1:9/bucket", fields=fields, key_prefix=prefix, expires_at_unix=2_000_000_000)


def make_spec(
    folder: Path,
    *steps: dict[str, Any],
    lease_seconds: int = 120,
    reserved_bytes: int = 64 * MIB,
    device_id: str = "node-a/cpu:0",
    devices: int = 1,
) -> AttemptSpec:
    """An attempt of its own whose processes, one for each device, run `steps` of the stub."""
    attempt_id = new_attempt_id()
    file = RemoteFile(name="rows.jsonl", url=FILE_URL, size_bytes=1, sha256="")
    grant = DeviceGrant(
        device_id=device_id, kind="cpu", index=0, device_bytes=1024 * MIB, reserved_bytes=reserved_bytes
    )
    return AttemptSpec(
        job_id="ftjob-1",
        attempt_id=attempt_id,
        number=1,
        plan=PLAN,
        model=ModelSource(name="smol", kind="path", revision="1", path="/models/smol", hub_token="hf_" + "a" * 30),
        training_file=file,
        validation_file=None,
        resume_from=None,
        device=grant,
        more_devices=tuple(
            grant.model_copy(update={"device_id": f"node-a/cpu:{index}", "index": index}) for index in range(1, devices)
        ),
        upload=make_grant(),
        lease_seconds=lease_seconds,
        run_limit_seconds=None,
        run_limit_reason=None,
        work_dir=str(folder / attempt_id),
        cache_dir=str(folder / "cache"),
        probe_environment={"TUNEPOOL_STUB": json.dumps(steps)},
    )


def make_validation(behaviour: str) -> ValidationSpec:
    """`behaviour` as the stub knows it: rows-12, hang, eat, crash."""
    return ValidationSpec(
        job_id="ftjob-1",
        model=ModelSource(name="smol", kind="path", revision="1", path="/models/smol"),
        training_file=RemoteFile(name=behaviour, url=FILE_URL, size_bytes=1, sha256=""),
        validation_file=None,
        max_seq_tokens=64,
        context_tokens=128,
        cache_dir="/nowhere",
    )


def progress(step: int) -> dict[str, Any]:
    """A stub's step that reports progress."""
    return {"report": {"kind": "progress", "step": step, "total_steps": 100, "trained_tokens": step}}


def texts_of(entries: Sequence[Entry], *streams: str) -> list[str]:
    """Texts of log lines, of some streams or of all."""
    return [
        entry.report.text
        for entry in entries
        if entry.report.kind == "log" and (not streams or entry.report.stream in streams)
    ]


def wait_for(condition: Callable[[], Any], *, seconds: float = 20.0) -> Any:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return answer
