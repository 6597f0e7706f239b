"""How long a plan will take: multiplications over a stated rate, plus the start.

Per token and parameter of a matrix: 2 FLOPs forward and 2 for the gradient of the activations. The frozen weights
need no gradient; the adapters' take 2 more. Checkpointing repeats the blocks' forward, and the fused head its product.
Attention adds 4 T Q per block and token for its two products, and twice that in backward. Rows of a micro-batch are
padded to the longest of them.

Evaluations and checkpoints are not counted; the high end of the range has room for them.
"""

from dataclasses import dataclass

from orchestrator.domain.estimate_weights import measure_adapter
from orchestrator.domain.models import ModelFacts
from orchestrator.domain.placement import DeviceKind
from orchestrator.domain.plan import TrainingPlan

PADDING = 1.25
"""Padded over real tokens in a micro-batch of several rows: a middle figure; the range covers 1 to the full length."""
FP32_SHARE = 0.55
"""The rate in float32 over that in bfloat16 (SmolLM2-135M on two EPYC cores: 1.4 s against 2.4 s a step)."""


@dataclass(frozen=True, kw_only=True)
class DeviceRate:
    """FLOPs per second that training reaches. A device of the kind may reach `low` to `high` times as many.

    `start_seconds` pass before the first step: the worker's imports, the files, the trainer. The weights come on top.
    """

    flops_per_second: float
    low: float
    high: float
    start_seconds: float
    weight_bytes_per_second: float


RATES: dict[DeviceKind, DeviceRate] = {
    "cpu": DeviceRate(flops_per_second=1.1e11, low=0.35, high=4.0, start_seconds=20.0, weight_bytes_per_second=5e8),
    "cuda": DeviceRate(flops_per_second=4.0e13, low=0.4, high=5.0, start_seconds=30.0, weight_bytes_per_second=5e8),
}
"""CPU: measured on 23 November 2026 on two cores of an AMD EPYC with AVX512-BF16: SmolLM2-135M, LoRA on all linear
layers, 4 x 64 and 4 x 256 tokens, with and without checkpointing, 107 to 111 GFLOP/s. Cores without bfloat16 units
reach a third of it, machines with more cores a multiple. CUDA: a quarter of the 165 TFLOP/s that NVIDIA's catalogue
gives for dense bfloat16 on an RTX 4090; an A100 (312) or H100 (989) lies in the range. Not measured by us."""


@dataclass(frozen=True, kw_only=True)
class TimeEstimate:
    """Seconds on one device, with the range that the estimate is honest about."""

    seconds: float
    low_seconds: float
    high_seconds: float
    steps: int
    tokens: int
    """Tokens of all steps together, without padding."""


def estimate_time(
    plan: TrainingPlan, facts: ModelFacts, *, total_tokens: int, rows: int, kind: DeviceKind
) -> TimeEstimate:
    """`total_tokens` and `rows` are those of the training file, read once."""
    rate = RATES[kind]
    steps = plan.total_steps(rows)
    passes = min(float(plan.epochs), steps * plan.batch_rows / max(1, rows))
    longest = max(total_tokens, rows * plan.max_seq_tokens)
    padded = min(longest, PADDING * total_tokens)
    if plan.packing or plan.micro_batch_rows == 1:
        longest = padded = total_tokens
    speed = rate.flops_per_second * (FP32_SHARE if plan.compute_dtype == "float32" else 1.0)
    start = rate.start_seconds + 2 * facts.total_parameters / rate.weight_bytes_per_second
    work = count_flops(plan, facts, row_tokens=max(1, round(padded / max(1, rows)))) * passes / speed
    return TimeEstimate(
        seconds=start + work * padded,
        low_seconds=start / 2 + work * total_tokens / rate.high,
        high_seconds=3 * start + work * longest / rate.low,
        steps=steps,
        tokens=round(total_tokens * passes),
    )


def count_flops(plan: TrainingPlan, facts: ModelFacts, *, row_tokens: int) -> int:
    """FLOPs per token, forward and backward, in rows of this length."""
    linear, head = facts.linear_parameters, facts.vocab_size * facts.hidden_size
    adapters = measure_adapter(plan, facts).parameters
    attention = 4 * row_tokens * facts.num_attention_heads * facts.head_dim * facts.num_layers
    flops = 4 * linear + 6 * head + 6 * adapters + 3 * attention
    if plan.gradient_checkpointing:
        flops += 2 * linear + 2 * adapters + attention
    return flops
