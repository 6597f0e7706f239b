"""The whole spec of a job as rows: what was asked, and what 'auto' became once the files were read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from api.schemas.activity import AttemptOut
from api.schemas.jobs import JobOut
from orchestrator.domain.spec import AUTO, JobSpec

PLAN_NAMES = {
    "hyperparameters.n_epochs": "epochs",
    "hyperparameters.batch_size": "batch_rows",
    "training.learning_rate": "learning_rate",
    "training.max_seq_length": "max_seq_tokens",
    "training.micro_batch_size": "micro_batch_rows",
    "training.gradient_accumulation": "accumulation_steps",
    "training.gradient_checkpointing": "gradient_checkpointing",
    "training.eval_steps": "eval_steps",
    "training.checkpoint_seconds": "checkpoint_seconds",
    "lora.alpha": "lora_alpha",
    "lora.target_modules": "lora_target_modules",
    "quantization.compute_dtype": "compute_dtype",
}
"""Where a plan has what a field of the spec may leave open."""

OPEN_WHEN_EMPTY = frozenset({"training.learning_rate", "job.seed"})
"""Fields that null leaves to us, as 'auto' does others."""
JOB_FIELDS = (
    "model",
    "training_file",
    "validation_file",
    "suffix",
    "seed",
    "priority",
    "priority_class",
    "max_cost_usd",
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """`became` is None where the field was taken as it was asked."""

    name: str
    asked: str
    became: str | None


def show_settings(spec: JobSpec, job: JobOut, attempts: Sequence[AttemptOut]) -> dict[str, list[Setting]]:
    """All that was asked for, by section."""
    asked = spec.model_dump(mode="json")
    method = asked["method"]
    sections: dict[str, dict[str, Any]] = {
        "training": asked["training"],
        "lora": asked["lora"],
        "hyperparameters": {"type": method["type"], **method["supervised"]["hyperparameters"]},
        "quantization": asked["quantization"],
        "resources": asked["resources"],
        "job": {name: asked[name] for name in JOB_FIELDS},
    }
    became = _resolve(job, attempts)
    return {
        section: [
            Setting(name=name, asked=_say(value), became=_became(became, f"{section}.{name}", value))
            for name, value in values.items()
        ]
        for section, values in sections.items()
    }


def _resolve(job: JobOut, attempts: Sequence[AttemptOut]) -> dict[str, Any]:
    """What was left open, as far as it is known by now."""
    found: dict[str, Any] = {"job.seed": job.seed}
    if job.plan is not None:
        found |= {path: job.plan[name] for path, name in PLAN_NAMES.items()}
        found["hyperparameters.learning_rate_multiplier"] = job.hyperparameters.learning_rate_multiplier
    if attempts:
        found["resources.device_type"] = attempts[-1].device_type
    return found


def _became(known: dict[str, Any], path: str, asked: Any) -> str | None:
    is_open = asked == AUTO or (asked is None and path in OPEN_WHEN_EMPTY)
    return _say(known[path]) if is_open and path in known else None


def _say(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
