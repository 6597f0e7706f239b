"""What events say: plain sentences with numbers and units."""

from typing import Any

from orchestrator.domain.protocol import CheckpointStored, Metric, Succeeded

METRIC_EVENTS_PER_JOB = 100
"""Training loss is said at most about this often per attempt; every figure is among the job's metrics."""
EVALUATION_FIGURES = ("eval_loss", "valid_loss")

STOP_SENTENCES = {
    "cancelled": "The worker is asked to stop: the job is to be cancelled.",
    "paused": "The worker is asked to save a checkpoint and stop: the job is to be paused.",
    "budget_exceeded": "The worker is asked to save a checkpoint and stop: max_cost_usd is nearly reached.",
    "timeout": "The worker is asked to save a checkpoint and stop: resources.max_runtime_seconds is reached.",
    "lease_expired": "The worker is asked to save a checkpoint and stop: contact with it was lost.",
    "preempted": "The worker is asked to save a checkpoint and stop: the job makes room.",
    "shutdown": "The worker is asked to save a checkpoint and stop: its node is shutting down.",
}


def describe_bytes(size_bytes: int) -> str:
    """In the unit that keeps the number short."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= size:
            return f"{size_bytes / size:.2f} {unit}"
    return f"{size_bytes} bytes"


def describe_usd(usd_micros: int) -> str:
    """At least cents, and as many digits as the amount needs to show itself."""
    return f"${usd_micros / 1_000_000:.2f}" if usd_micros >= 100_000 else f"${usd_micros / 1_000_000:.6f}"


def describe_seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def describe_checkpoint(checkpoint: CheckpointStored) -> str:
    size = sum(file.size_bytes for file in checkpoint.files)
    return (
        f"Checkpoint at step {checkpoint.step}: {len(checkpoint.files)} files, {describe_bytes(size)}, "
        f"saved in {checkpoint.save_seconds:.1f} s."
    )


def describe_result(result: Succeeded) -> str:
    size = sum(file.size_bytes for file in result.files)
    return (
        f"Training has ended at step {result.step} after {result.trained_tokens:,} trained tokens; the adapter's "
        f"{len(result.files)} files, {describe_bytes(size)}, are being checked."
    )


def describe_metric(metric: Metric, *, total_steps: int | None) -> tuple[str, dict[str, Any]] | None:
    """An event of type metrics, as OpenAI's clients read it; None for steps between those that are said."""
    values = metric.values
    evaluated = next((values[name] for name in EVALUATION_FIGURES if name in values), None)
    stride = max(1, (total_steps or 0) // METRIC_EVENTS_PER_JOB)
    is_said = evaluated is not None or metric.step % stride == 0 or metric.step == total_steps
    if not is_said or (evaluated is None and "train_loss" not in values):
        return None
    data: dict[str, Any] = {"step": metric.step, "total_steps": total_steps}
    parts = []
    if "train_loss" in values:
        data["train_loss"] = values["train_loss"]
        parts.append(f"training loss={values['train_loss']:.4f}")
    if evaluated is not None:
        data["valid_loss"] = evaluated
        parts.append(f"validation loss={evaluated:.4f}")
    of = f"/{total_steps}" if total_steps else ""
    return f"Step {metric.step}{of}: {', '.join(parts)}", data
