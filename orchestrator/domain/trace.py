"""What the tracer is asked about a plan, and what its answer means. The tracer is `python -m workers.estimator`.

A question holds only what moves the peak, so that plans which differ in nothing else are one question. Every field of a
plan is either asked or has its reason in NOT_ASKED; a test walks them.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from orchestrator.domain.errors import UntraceableError
from orchestrator.domain.estimate import DeviceKind, MemoryEstimate
from orchestrator.domain.plan import TrainingPlan

CUDA_TOKENS_MULTIPLE = 8
"""Rows are padded to a multiple of this on CUDA (`workers.recipes.sft`)."""
MARGIN_SHARES: Mapping[DeviceKind, float] = MappingProxyType({"cuda": 0.03, "cpu": 0.12})
"""What placement reserves beyond the traced peak of the process, because the reservation is a fence that the worker
cannot pass by much. On CUDA the tracer may be this much below what the driver shows (its goal against published
measurements). On a CPU it may be 10 % below the peak resident set (the tolerance that it is held to by
tests/integration/test_cpu_memory.py), which takes 1 / 0.9 - 1, 11 %."""
NOT_ASKED = MappingProxyType(
    {
        "method": "only supervised training exists; another method is not traced at all",
        "epochs": "repeats steps",
        "max_steps": "repeats steps",
        "batch_rows": "is micro-batch times accumulation times devices, and one micro-batch is in memory at a time",
        "accumulation_steps": "gradients add up in place",
        "learning_rate": "a number",
        "scheduler": "a number that changes from step to step",
        "warmup_ratio": "a number that changes from step to step",
        "weight_decay": "scales weights in place",
        "max_grad_norm": "scales gradients in place; the norm's temporaries are counted either way",
        "eval_steps": "every run is asked about as one that evaluates, which is the same however often it does",
        "checkpoint_steps": "states are copied to the host to be saved",
        "checkpoint_seconds": "states are copied to the host to be saved",
        "seed": "a number",
        "lora_init": "decides values; what it computes to find them is gone before the first step",
    }
)
"""Fields of a plan that do not move the peak of a training step, and why."""
_TERMS = frozenset({"base_weights", "adapters", "activations", "allocator", "context"})
"""Terms that an answer's breakdown has at least."""


class _Answer(BaseModel):
    """The tracer's line; fields that a newer one adds are left alone."""

    model_config = ConfigDict(frozen=True, strict=True)

    peak_allocated_bytes: PositiveInt
    peak_reserved_bytes: PositiveInt
    peak_device_bytes: PositiveInt
    breakdown: dict[str, NonNegativeInt]
    flops: PositiveInt | None = None


def build_question(plan: TrainingPlan, config: Mapping[str, Any] | None, kind: DeviceKind) -> dict[str, Any]:
    """The line for the tracer, without an id. Raises UntraceableError for what it cannot be asked.

    Says how our worker trains: adapters in float32 under autocast, norms left in the compute dtype, TRL's fused head
    (which is what SFTTrainer's 'nll' is; on a CPU the tracer knows the worker's own loss), transformers' default
    attention, no logits kept. On CUDA rows are filled up to eights, so that even a single one may be padded.
    """
    if config is None:
        raise UntraceableError("the model's config was not kept with its registration")
    if plan.method != "supervised":
        raise UntraceableError(f"method {plan.method} is not traced")
    return {
        "model_config": dict(config),
        "lora": _describe_lora(plan),
        "quantization": {"type": plan.quantization, "double_quant": plan.double_quant},
        "training": {
            "micro_batch_size": plan.micro_batch_rows,
            "max_seq_length": plan.max_seq_tokens if kind == "cpu" else _padded_tokens(plan),
            "packing": plan.packing,
            "padded": None if plan.packing or kind == "cpu" else True,
            "gradient_checkpointing": plan.gradient_checkpointing,
            "optimizer": plan.optimizer,
            "optimizer_dtype": None,
            "dtype": plan.compute_dtype,
            "residual_dtype": plan.compute_dtype,
            "loss": "fused",
            "attention": "sdpa",
            "keeps_outputs": False,
            "evaluates": True,
            "method": "sft",
        },
        "devices": {"kind": kind, **_describe_sharing(plan)},
    }


def _describe_sharing(plan: TrainingPlan) -> dict[str, Any]:
    """DDP's buckets take the same on each device, however many there are."""
    return {"count": 2, "sharding": "ddp"} if plan.devices > 1 else {"count": 1, "sharding": "none"}


def _padded_tokens(plan: TrainingPlan) -> int:
    return -(-plan.max_seq_tokens // CUDA_TOKENS_MULTIPLE) * CUDA_TOKENS_MULTIPLE


def _describe_lora(plan: TrainingPlan) -> dict[str, Any]:
    return {
        "r": plan.lora_r,
        "alpha": plan.lora_alpha,
        "dropout": plan.lora_dropout,
        "target_modules": sorted(plan.lora_target_modules),
        "bias": plan.lora_bias,
        "use_dora": plan.use_dora,
        "use_rslora": plan.use_rslora,
        "adapter_dtype": "float32",
    }


def read_answer(line: Mapping[str, Any], kind: DeviceKind) -> MemoryEstimate:
    """The estimate in an answer. Raises UntraceableError with the tracer's reason, or for an answer without sense."""
    if line.get("error"):
        raise UntraceableError(f"the tracer cannot do this: {str(line['error'])[:300]}")
    try:
        answer = _Answer.model_validate(line)
    except ValidationError as error:
        raise UntraceableError(f"the tracer's answer has {error.error_count()} wrong fields") from None
    _check_sums(answer)
    margin = int(MARGIN_SHARES[kind] * answer.peak_device_bytes)
    return MemoryEstimate(
        total_bytes=answer.peak_device_bytes + margin,
        breakdown={**answer.breakdown, "margin": margin},
        allocated_bytes=answer.peak_allocated_bytes,
        reserved_bytes=answer.peak_reserved_bytes,
        device_bytes=answer.peak_device_bytes,
        method="traced",
        flops=answer.flops,
    )


def _check_sums(answer: _Answer) -> None:
    """An answer that contradicts itself would be believed by placement, so it is refused."""
    missing = sorted(_TERMS - answer.breakdown.keys())
    if missing:
        raise UntraceableError(f"the tracer's breakdown lacks {', '.join(missing)}")
    if sum(answer.breakdown.values()) != answer.peak_device_bytes:
        raise UntraceableError("the tracer's breakdown does not add up to its peak")
    if not answer.peak_allocated_bytes <= answer.peak_reserved_bytes <= answer.peak_device_bytes:
        raise UntraceableError("the tracer's three peaks contradict each other")
