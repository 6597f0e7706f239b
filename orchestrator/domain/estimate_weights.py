"""Bytes of everything that has a parameter behind it: the frozen base, the adapters, their gradients and moments.

Counted per tensor kind as bitsandbytes and PEFT store them, so no term here is fitted to a measurement.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.domain.models import LinearGroup, ModelFacts
from orchestrator.domain.plan import TrainingPlan

FP32_BYTES = 4
NF4_BLOCK = 64
"""Weights that share one scale (bitsandbytes' default block size for 4 bits)."""
NESTED_BLOCK = 256
"""First-level scales that share one fp32 scale under double quantization (QLoRA, section 3)."""
NF4_TABLE_BYTES = 16 * FP32_BYTES
NESTED_TABLE_BYTES = 256 * FP32_BYTES + FP32_BYTES
"""Per linear layer: the code book of the second level, and its offset."""
EIGHT_BIT_BLOCK = 256
"""Values that share a scale in bitsandbytes' 8-bit optimizers."""
FEWEST_EIGHT_BIT_VALUES = 4096
"""Smaller tensors keep fp32 states in those (`min_8bit_size`)."""


@dataclass(frozen=True, kw_only=True)
class AdapterShape:
    """What LoRA adds to the model: `parameters` in all, `factors` floats of Adafactor, `states_8bit` bytes of one
    8-bit moment."""

    parameters: int
    factors: int
    states_8bit: int


def compute_bytes(plan: TrainingPlan) -> int:
    """Bytes of one number in the dtype of activations and of unquantized weights."""
    return 4 if plan.compute_dtype == "float32" else 2


def get_target_groups(plan: TrainingPlan, facts: ModelFacts) -> tuple[LinearGroup, ...]:
    return tuple(group for group in facts.linear_groups if group.name in plan.lora_target_modules)


def estimate_base_bytes(plan: TrainingPlan, facts: ModelFacts) -> int:
    """The frozen weights. Quantization reaches the linear layers only; embeddings, head and norms keep their dtype."""
    linear = facts.linear_parameters
    rest = max(0, facts.total_parameters - linear)
    wide = compute_bytes(plan)
    match plan.quantization:
        case "nf4" | "fp4":
            return -(-linear // 2) + rest * wide
        case "int8":
            return linear + rest * wide
        case _:
            return (linear + rest) * wide


def estimate_constant_bytes(plan: TrainingPlan, facts: ModelFacts) -> int:
    """Scales and code books that quantized weights need."""
    layers = sum(group.count for group in facts.linear_groups)
    if plan.quantization == "int8":
        return sum(group.out_features * group.count for group in facts.linear_groups) * FP32_BYTES
    if plan.quantization not in {"nf4", "fp4"}:
        return 0
    blocks = sum(-(-group.out_features * group.in_features // NF4_BLOCK) * group.count for group in facts.linear_groups)
    if not plan.double_quant:
        return blocks * FP32_BYTES + layers * NF4_TABLE_BYTES
    nested = -(-blocks // NESTED_BLOCK) * FP32_BYTES
    return blocks + nested + layers * (NF4_TABLE_BYTES + NESTED_TABLE_BYTES)


def measure_adapter(plan: TrainingPlan, facts: ModelFacts) -> AdapterShape:
    """Count what is trained: A [r, in] and B [out, r] per target, DoRA's magnitude [out], and biases when asked for."""
    tensors = list(_trained_tensors(plan, facts))
    return AdapterShape(
        parameters=sum(math.prod(shape) * count for shape, count in tensors),
        factors=sum(sum(shape) * count for shape, count in tensors),
        states_8bit=sum(_moment_bytes(math.prod(shape)) * count for shape, count in tensors),
    )


def _trained_tensors(plan: TrainingPlan, facts: ModelFacts) -> Iterator[tuple[tuple[int, ...], int]]:
    """(shape, how many of it)."""
    for group in get_target_groups(plan, facts):
        yield (plan.lora_r, group.in_features), group.count
        yield (group.out_features, plan.lora_r), group.count
        if plan.use_dora:
            yield (group.out_features,), group.count
    if plan.lora_bias != "none":
        for group in facts.linear_groups if plan.lora_bias == "all" else get_target_groups(plan, facts):
            yield (group.out_features,), group.count


def _moment_bytes(values: int) -> int:
    """One 8-bit moment of a tensor with its scales. That of a paged optimizer may be on the device too."""
    if values < FEWEST_EIGHT_BIT_VALUES:
        return FP32_BYTES * values
    return values + FP32_BYTES * -(-values // EIGHT_BIT_BLOCK)


def estimate_optimizer_bytes(plan: TrainingPlan, shape: AdapterShape) -> int:
    """The optimizer's state beside fp32 parameters and gradients."""
    match plan.optimizer:
        case "adamw":
            return 2 * FP32_BYTES * shape.parameters
        case "adamw_8bit" | "paged_adamw_8bit":
            return 2 * shape.states_8bit
        case "adafactor":
            return FP32_BYTES * shape.factors
        case _:
            return 0
