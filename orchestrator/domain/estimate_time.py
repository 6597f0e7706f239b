"""How long a plan will take: multiplications over a stated rate, plus the start.

Per token and parameter of a matrix: 2 FLOPs forward and 2 for the gradient of the activations. The frozen weights
need no gradient; the adapters' take 2 more. Checkpointing repeats the blocks' forward, and the fused head its product.
Attention adds 4 T Q per block and token for its two products, and twice that in backward. Rows of a micro-batch are
padded to the longest of them.

An evaluation is a forward pass over the validation file: before the first step, at its cadence and after the last
step. A checkpoint holds training up while it is staged; its upload goes on beside it, but the adapter's at the end is
waited for.

The estimate is a sum of terms. What was measured on such jobs corrects each term and narrows its range
(`orchestrator.domain.calibration`); a term that nobody has measured keeps the catalogue's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.domain.estimate_terms import Correction
from orchestrator.domain.estimate_weights import FP32_BYTES, measure_adapter
from orchestrator.domain.models import ModelFacts
from orchestrator.domain.pace import count_evaluations
from orchestrator.domain.placement import DeviceKind
from orchestrator.domain.plan import TokenReport, TrainingPlan

PADDING = 1.25
"""Padded over real tokens in a micro-batch of several rows: a middle figure; the range covers 1 to the full length."""
FP32_SHARE = 0.55
"""The rate in float32 over that in bfloat16 (SmolLM2-135M on two EPYC cores: 1.4 s against 2.4 s a step)."""
STEP_SECONDS = 0.03
"""What the trainer does around a step, whatever the model: a model of two layers takes 20 ms a step on an idle core and
60 ms on a busy one (two EPYC cores, 23 and 25 November 2026)."""
STAGING_SECONDS = 0.3
STAGING_BYTES_PER_SECOND = 2e8
"""Of a checkpoint: the adapter and its two optimizer states, written to the node's disk. A middle figure."""
SAVING_SECONDS = 1.0
UPLOAD_BYTES_PER_SECOND = 2e7
"""Of the adapter at the end; a modest office line, as the workers guess too."""


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
    """Seconds on one device, with the range that the estimate is honest about.

    `breakdown` is by term and sums up to `seconds`; `uncalibrated` are the terms before any correction. `runs` of the
    same kind were measured on such a device: without any the range is the catalogue's.
    """

    seconds: float
    low_seconds: float
    high_seconds: float
    steps: int
    tokens: int
    """Tokens of all steps together, without padding."""
    evaluations: int = 0
    runs: int = 0
    breakdown: dict[str, float] = field(default_factory=dict)
    uncalibrated: dict[str, float] = field(default_factory=dict)


def estimate_time(
    plan: TrainingPlan,
    facts: ModelFacts,
    *,
    total_tokens: int,
    rows: int,
    kind: DeviceKind,
    validation: TokenReport | None = None,
    corrections: Mapping[str, Correction] | None = None,
) -> TimeEstimate:
    """`total_tokens` and `rows` are those of the training file, read once; `validation` describes the other file."""
    rate, learned = RATES[kind], corrections or {}
    steps = plan.total_steps(rows)
    passes = min(float(plan.epochs), steps * plan.batch_rows / max(1, rows))
    speed = rate.flops_per_second * (FP32_SHARE if plan.compute_dtype == "float32" else 1.0)
    evaluations = 1 + count_evaluations(plan, after_step=0, last_step=steps) if validation is not None else 0
    training = _train(plan, facts, total_tokens=total_tokens, rows=rows).scaled(passes / speed)
    terms = {
        "start": _Span(rate.start_seconds / 2, rate.start_seconds, 3 * rate.start_seconds),
        "loading": _load(facts, rate),
        "training": training.ranged(rate),
        "evaluating": _Span(0.0, 0.0, 0.0),
        "saving": _save(plan, facts),
    }
    if validation is not None:
        forward = _evaluate(plan, facts, validation)
        terms["evaluating"] = forward.scaled(evaluations / speed).ranged(rate)
    staged = _count_checkpoints(plan, steps, seconds=training.middle) * _stage_seconds(plan, facts)
    terms["training"] = terms["training"].plus(staged + steps * STEP_SECONDS)
    spans = {term: _Span(*learned[term].apply(s.middle)) if term in learned else s for term, s in terms.items()}
    return TimeEstimate(
        seconds=sum(span.middle for span in spans.values()),
        low_seconds=sum(span.low for span in spans.values()),
        high_seconds=sum(span.high for span in spans.values()),
        steps=steps,
        tokens=round(total_tokens * passes),
        evaluations=evaluations,
        runs=learned["training"].runs if "training" in learned else 0,
        breakdown={term: span.middle for term, span in spans.items()},
        uncalibrated={term: span.middle for term, span in terms.items()},
    )


@dataclass(frozen=True)
class _Span:
    """A figure and its range: FLOPs or seconds."""

    low: float
    middle: float
    high: float

    def scaled(self, by: float) -> "_Span":
        return _Span(self.low * by, self.middle * by, self.high * by)

    def plus(self, more: float) -> "_Span":
        return _Span(self.low + more, self.middle + more, self.high + more)

    def ranged(self, rate: DeviceRate) -> "_Span":
        """Widened by what devices of one kind differ by."""
        return _Span(self.low / rate.high, self.middle, self.high / rate.low)


def _train(plan: TrainingPlan, facts: ModelFacts, *, total_tokens: int, rows: int) -> _Span:
    """FLOPs of one pass over the training file: without padding, with the usual, and padded to the full length."""
    longest = max(total_tokens, rows * plan.max_seq_tokens)
    padded = min(float(longest), PADDING * total_tokens)
    if plan.packing or plan.micro_batch_rows == 1:
        longest, padded = total_tokens, float(total_tokens)
    each = count_flops(plan, facts, row_tokens=max(1, round(padded / max(1, rows))))
    return _Span(each * total_tokens, each * padded, each * longest)


def _evaluate(plan: TrainingPlan, facts: ModelFacts, validation: TokenReport) -> _Span:
    """FLOPs of one pass over the validation file, forward only; it is never packed."""
    tokens, rows = validation.total_tokens, max(1, validation.rows)
    longest = max(tokens, rows * validation.longest_row_tokens)
    padded = min(float(longest), PADDING * tokens) if plan.micro_batch_rows > 1 else float(tokens)
    each = count_forward_flops(plan, facts, row_tokens=max(1, round(padded / rows)))
    return _Span(each * tokens, each * padded, each * (longest if plan.micro_batch_rows > 1 else tokens))


def _load(facts: ModelFacts, rate: DeviceRate) -> _Span:
    seconds = 2 * facts.total_parameters / rate.weight_bytes_per_second
    return _Span(seconds / 2, seconds, 3 * seconds)


def _save(plan: TrainingPlan, facts: ModelFacts) -> _Span:
    size = FP32_BYTES * measure_adapter(plan, facts).parameters
    seconds = SAVING_SECONDS + size / UPLOAD_BYTES_PER_SECOND
    return _Span(seconds / 10, seconds, 3 * seconds)


def _stage_seconds(plan: TrainingPlan, facts: ModelFacts) -> float:
    return STAGING_SECONDS + 3 * FP32_BYTES * measure_adapter(plan, facts).parameters / STAGING_BYTES_PER_SECOND


def _count_checkpoints(plan: TrainingPlan, steps: int, *, seconds: float) -> float:
    """Made between the first step and the last, by steps or by time; the last step's adapter is saved anyway."""
    by_steps = (steps - 1) // plan.checkpoint_steps if plan.checkpoint_steps else 0
    by_time = seconds // plan.checkpoint_seconds if plan.checkpoint_seconds else 0.0
    return max(by_steps, min(by_time, max(0, steps - 1)))


def count_flops(plan: TrainingPlan, facts: ModelFacts, *, row_tokens: int) -> int:
    """FLOPs per token, forward and backward, in rows of this length."""
    linear, head = facts.linear_parameters, facts.vocab_size * facts.hidden_size
    adapters = measure_adapter(plan, facts).parameters
    attention = 4 * row_tokens * facts.num_attention_heads * facts.head_dim * facts.num_layers
    flops = 4 * linear + 6 * head + 6 * adapters + 3 * attention
    if plan.gradient_checkpointing:
        flops += 2 * linear + 2 * adapters + attention
    return flops


def count_forward_flops(plan: TrainingPlan, facts: ModelFacts, *, row_tokens: int) -> int:
    """FLOPs per token of a forward pass, in rows of this length."""
    attention = 4 * row_tokens * facts.num_attention_heads * facts.head_dim * facts.num_layers
    adapters = measure_adapter(plan, facts).parameters
    return 2 * (facts.linear_parameters + adapters + facts.vocab_size * facts.hidden_size) + attention
