"""From the plan's optimizer and schedule to the trainer's words, and what a device cannot do is refused by name."""

from typing import Any, Literal

import torch

from orchestrator.domain.plan import TrainingPlan
from workers.failures import UserError

_OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
}
_CUDA_ONLY = frozenset({"adamw_8bit", "paged_adamw_8bit"})
"""bitsandbytes keeps 8-bit states in CUDA memory, and pages them by CUDA's unified memory."""
FLOAT32_BYTES = 4
FEWEST_PAGED_VALUES = 100_000
"""States of smaller tensors are not paged (bitsandbytes 0.50, `Optimizer8bit.get_state_buffer`). Of larger ones the
scales stay on the device."""
FEWEST_8BIT_VALUES = 4096
"""Smaller tensors keep float32 states (bitsandbytes 0.50, `min_8bit_size`)."""
BLOCK_8BIT = 256
"""Values that share a float32 scale in 8-bit states (bitsandbytes 0.50, `Optimizer2State.init_state`)."""
_SCHEDULERS = frozenset({"linear", "cosine", "constant", "constant_with_warmup"})


def optimizer_arguments(plan: TrainingPlan, kind: Literal["cpu", "cuda"]) -> dict[str, Any]:
    """Arguments of transformers' TrainingArguments. Raises UserError for what this device or version does not have.

    Adam's betas and epsilon are torch's defaults (0.9, 0.999, 1e-8). `max_grad_norm` 0 clips nothing.
    """
    if plan.optimizer not in _OPTIMIZERS:
        raise UserError(f"training.optimizer {plan.optimizer!r} is not known to this worker")
    if plan.scheduler not in _SCHEDULERS:
        raise UserError(f"training.scheduler {plan.scheduler!r} is not known to this worker")
    if kind == "cpu" and plan.optimizer in _CUDA_ONLY:
        raise UserError(f"training.optimizer {plan.optimizer!r} needs a CUDA device; on a CPU use 'adamw'")
    return {
        "optim": _OPTIMIZERS[plan.optimizer],
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": plan.scheduler,
        "warmup_steps": plan.warmup_ratio,  # below 1 it is a share of all steps
        "weight_decay": plan.weight_decay,
        "max_grad_norm": plan.max_grad_norm,
    }


def state_bytes(plan: TrainingPlan, weight: torch.Tensor) -> int:
    """What the optimizer keeps for a trained weight after the first step, in bytes of the device."""
    match plan.optimizer:
        case "adamw":
            return 2 * weight.nbytes
        case "adamw_8bit" | "paged_adamw_8bit":
            return 2 * _moment_bytes(weight.numel(), is_paged=plan.optimizer.startswith("paged_"))
        case "adafactor":
            rows_and_columns = sum(weight.shape[-2:]) if weight.dim() > 1 else weight.numel()
            return FLOAT32_BYTES * rows_and_columns
        case _:
            return 0


def _moment_bytes(values: int, *, is_paged: bool) -> int:
    """One 8-bit moment of a tensor, on the device."""
    if values < FEWEST_8BIT_VALUES:
        return FLOAT32_BYTES * values
    scales = FLOAT32_BYTES * -(-values // BLOCK_8BIT)
    return scales if is_paged and values >= FEWEST_PAGED_VALUES else values + scales
