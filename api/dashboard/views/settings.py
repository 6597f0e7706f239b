"""The whole spec of a job as rows: what was asked, and what 'auto' became once the files were read."""

from dataclasses import dataclass
from typing import Any

from api.schemas.jobs import JobOut
from orchestrator.domain.spec import AUTO

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


@dataclass(frozen=True, kw_only=True)
class Setting:
    """`became` is None where the field was taken as it was asked."""

    name: str
    asked: str
    became: str | None


def show_settings(job: JobOut, hyperparameters: dict[str, Any]) -> dict[str, list[Setting]]:
    """By section. `hyperparameters` as they were asked for; the job shows them resolved."""
    sections: dict[str, dict[str, Any]] = {
        "training": job.training.model_dump(mode="json"),
        "lora": job.lora.model_dump(mode="json"),
        "hyperparameters": hyperparameters,
        "quantization": job.quantization.model_dump(mode="json"),
        "resources": job.resources.model_dump(mode="json"),
        "job": {"priority": job.priority, "max_cost_usd": job.max_cost_usd, "seed": job.seed, "suffix": job.suffix},
    }
    return {
        section: [
            Setting(name=name, asked=_say(value), became=_became(job, f"{section}.{name}", value))
            for name, value in values.items()
        ]
        for section, values in sections.items()
    }


def _became(job: JobOut, path: str, asked: Any) -> str | None:
    name = PLAN_NAMES.get(path)
    if job.plan is None or name is None:
        return None
    if asked == AUTO or (path == "training.learning_rate" and asked is None):
        return _say(job.plan[name])
    return None


def _say(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
