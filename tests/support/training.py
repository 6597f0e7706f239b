"""Attempts to train in a test: small data sets as files, specs with sensible plans, and what a local run reported."""

import hashlib
import importlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.protocol import (
    OUTCOME_KINDS,
    AttemptSpec,
    CheckpointSource,
    CheckpointStored,
    DeviceGrant,
    Metric,
    ModelSource,
    Phase,
    RemoteFile,
    Report,
    Stopped,
    StopReason,
    Succeeded,
    UploadGrant,
)
from tests.support.models import LINEAR_NAMES
from workers.context import LocalContext

PAUSE = StopReason(reason="paused", save=True)
PREFIX = "jobs/ftjob-test/attempts/0001-attempt-test/"


def make_rows(count: int, *, start: int = 0) -> list[dict[str, Any]]:
    """Rows of different lengths that a model can learn: the answer repeats a word of the question."""
    words = ("red", "green", "blue", "gold")
    rows = []
    for number in range(start, start + count):
        word = words[number % len(words)]
        question = f"Say the colour {word}." + " Please be brief." * (number % 3)
        rows.append(
            {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": f"It is {word}."}]}
        )
    return rows


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def describe(path: Path, *, url: str | None = None) -> RemoteFile:
    content = path.read_bytes()
    return RemoteFile(
        name=path.name,
        url=url or path.absolute().as_uri(),
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def make_plan(**changes: Any) -> TrainingPlan:
    """Two epochs of eight rows in batches of two: eight steps, no dropout."""
    values: dict[str, Any] = {
        "method": "supervised",
        "epochs": 2,
        "max_steps": None,
        "micro_batch_rows": 2,
        "accumulation_steps": 1,
        "max_seq_tokens": 128,
        "packing": False,
        "gradient_checkpointing": False,
        "learning_rate": 5e-3,
        "optimizer": "adamw",
        "scheduler": "linear",
        "warmup_ratio": 0.1,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "eval_steps": None,
        "checkpoint_steps": None,
        "checkpoint_seconds": None,
        "seed": 7,
        "lora_r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "lora_target_modules": LINEAR_NAMES,
        "lora_bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "lora_init": "default",
        "quantization": "none",
        "double_quant": True,
        "compute_dtype": "float32",
    } | changes
    values.setdefault("batch_rows", values["micro_batch_rows"] * values["accumulation_steps"])
    return TrainingPlan(**values)


def make_attempt(
    folder: Path,
    model_folder: Path,
    *,
    plan: TrainingPlan | None = None,
    rows: Sequence[dict[str, Any]] | None = None,
    validation_rows: Sequence[dict[str, Any]] | None = None,
    **changes: Any,
) -> AttemptSpec:
    """A spec whose files lie below `folder`, for a LocalContext; `changes` replace fields."""
    folder.mkdir(parents=True, exist_ok=True)
    training = write_rows(folder / "train.jsonl", make_rows(8) if rows is None else rows)
    validation = None
    if validation_rows is not None:
        validation = describe(write_rows(folder / "held-out.jsonl", validation_rows))
    values: dict[str, Any] = {
        "job_id": "ftjob-test",
        "attempt_id": "attempt-test",
        "number": 1,
        "plan": plan or make_plan(),
        "model": ModelSource(name="tiny", kind="path", revision="test", path=str(model_folder)),
        "training_file": describe(training),
        "validation_file": validation,
        "resume_from": None,
        "device": DeviceGrant(
            device_id="node/cpu:0", kind="cpu", index=0, device_bytes=16 * 1024**3, reserved_bytes=8 * 1024**3
        ),
        "upload": UploadGrant(url="", fields={}, key_prefix=PREFIX, expires_at_unix=0),
        "lease_seconds": 60,
        "run_limit_seconds": None,
        "run_limit_reason": None,
        "work_dir": str(folder / "work"),
        "cache_dir": str(folder / "cache"),
    }
    Path(values["work_dir"]).mkdir(parents=True, exist_ok=True)
    return AttemptSpec(**values | changes)


def read_reports(local_folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """What a LocalContext was told, in order; of one kind, or all."""
    lines = (local_folder / "reports.jsonl").read_text().splitlines()
    reports = [json.loads(line)["report"] for line in lines]
    return [report for report in reports if kind is None or report["kind"] == kind]


def read_losses(local_folder: Path, name: str = "train_loss") -> dict[int, float]:
    """Step to figure, of the steps that have it."""
    metrics = read_reports(local_folder, "metric")
    return {report["step"]: report["values"][name] for report in metrics if name in report["values"]}


def resume_source(local_folder: Path, step: int) -> CheckpointSource:
    """The stored checkpoint of `step`, as the control plane would hand it to the next attempt."""
    found = [r for r in read_reports(local_folder, "checkpoint") if r["step"] == step]
    stored = CheckpointStored.model_validate(found[-1])
    objects = local_folder / "objects"
    return CheckpointSource(
        step=step,
        files=tuple(
            RemoteFile(
                name=file.name,
                url=(objects / stored.key_prefix / file.name).absolute().as_uri(),
                size_bytes=file.size_bytes,
                sha256=file.sha256,
            )
            for file in stored.files
        ),
    )


def outcomes(local_folder: Path) -> list[dict[str, Any]]:
    return [report for report in read_reports(local_folder) if report["kind"] in OUTCOME_KINDS]


class ObservedContext(LocalContext):
    """A local context that asks for a stop when a step, or a phase of a step, was reported."""

    def __init__(
        self,
        folder: Path,
        *,
        stop_at_step: int | None = None,
        stop_at_phase: tuple[Phase, int] | None = None,
        reason: StopReason = PAUSE,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(folder, key_prefix=PREFIX)
        self._stop_at_step, self._stop_at_phase, self._reason, self._on_step = (
            stop_at_step, stop_at_phase, reason, on_step,
        )  # fmt: skip
        self._step = 0

    def report(self, report: Report) -> None:
        super().report(report)
        if isinstance(report, Metric) and "train_loss" in report.values:
            self._step = report.step
            if self._on_step is not None:
                self._on_step(report.step)
            if self._step == self._stop_at_step:
                self.stop(self._reason)
        if self._stop_at_phase == (report, self._step):
            self.stop(self._reason)


def train(spec: AttemptSpec, context: LocalContext, **arguments: Any) -> Succeeded | Stopped:
    """Run the recipe in this process, as the entry point does."""
    recipe = importlib.import_module("workers.recipes.sft")
    outcome: Succeeded | Stopped = recipe.run(spec, context, **{"started_at": time.monotonic()} | arguments)
    context.report(outcome)
    return outcome


def read_adapter(context: LocalContext, outcome: Succeeded) -> dict[str, Any]:
    """The stored adapter's tensors, by name."""
    return load_file(context.folder / "objects" / outcome.key_prefix / "adapter_model.safetensors")
