"""Bytes of everything that has a parameter behind it: the frozen base, the adapters, their gradients and moments.

Counted per tensor kind as bitsandbytes and PEFT store them, so no term here is fitted to a measurement.
"""

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


@dataclass(frozen=True, kw_only=True)
class AdapterShape:
    """What LoRA adds to one group of linear layers: `parameters` over the group, `factors` floats of Adafactor."""

    parameters: int
    factors: int


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
    parameters = factors = 0
    for group in get_target_groups(plan, facts):
        sides = group.in_features + group.out_features
        extra = group.out_features if plan.use_dora else 0
        parameters += (plan.lora_r * sides + extra) * group.count
        factors += (2 * plan.lora_r + sides + extra) * group.count
    if plan.lora_bias != "none":
        groups = facts.linear_groups if plan.lora_bias == "all" else get_target_groups(plan, facts)
        biases = sum(group.out_features * group.count for group in groups)
        parameters += biases
        factors += biases
    return AdapterShape(parameters=parameters, factors=factors)


def estimate_optimizer_bytes(plan: TrainingPlan, shape: AdapterShape) -> int:
    """The optimizer's state beside fp32 parameters and gradients."""
    match plan.optimizer:
        case "adamw":
            return 2 * FP32_BYTES * shape.parameters
        case "adamw_8bit" | "paged_adamw_8bit":
            scales = -(-shape.parameters // EIGHT_BIT_BLOCK) * 2 * FP32_BYTES
            return 2 * shape.parameters + scales
        case "adafactor":
            return FP32_BYTES * shape.factors
        case _:
            return 0
