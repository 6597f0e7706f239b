"""How long a plan will take: what its micro-batches consist of over how fast the device is, plus the start. Pure.

Rows of a micro-batch are padded to the longest of them; how long that is on average follows from the lengths that
validation counted (`domain.batches`), and what a micro-batch takes from the measured or catalogued speed of the device
(`domain.estimate_step`, `domain.speed`). An evaluation is a forward pass over the validation file: before the first
step, at its cadence and after the last step. Before the first step the worker tries one micro-batch of the longest
rows. A checkpoint holds training up while it is staged; its upload goes on beside it, but the adapter's at the end is
waited for.

The estimate is a sum of terms. What was measured on such jobs corrects each term and narrows its range
(`orchestrator.domain.calibration`); a term that nobody has measured keeps its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.domain.batches import Lengths, MicroBatch, average_batch, even_batch, guess_lengths
from orchestrator.domain.estimate_step import measure_evaluation, measure_training
from orchestrator.domain.estimate_terms import Correction
from orchestrator.domain.estimate_weights import FP32_BYTES, get_target_groups, measure_adapter
from orchestrator.domain.models import ModelFacts
from orchestrator.domain.pace import count_evaluations
from orchestrator.domain.plan import TokenReport, TrainingPlan
from orchestrator.domain.speed import DeviceSpeed, find_speed

Confidence = Literal["low", "medium", "high"]
RUNS_FOR_CONFIDENCE = 3

STEP_SECONDS = 0.02
"""What the trainer does around a step, whatever the model (two EPYC cores, 25 November 2026)."""
STAGING_SECONDS = 0.3
STAGING_BYTES_PER_SECOND = 2e8
"""Of a checkpoint: the adapter and its two optimizer states, written to the node's disk. A middle figure."""
LAUNCH_SECONDS = 1.5
"""From the launch to the first line of the worker: an actor, a process, an interpreter."""
TOKENS_PER_SECOND = 5e5
"""That one core tokenizes (512 MiB of chats in four minutes, `orchestrator.runtime.validation`)."""
BUILDING_SECONDS, BUILDING_CALLS = 0.25, 8.0
"""Of the model's classes, and for each module that gets an adapter, in calls of `domain.speed`."""
READING_BYTES_PER_SECOND = 1.5e9
"""Of weights that lie in the page cache or on a fast disk; a middle figure."""
PACKING_PASSES = {"nf4": 20.0, "fp4": 20.0, "int8": 4.0}
"""Over each weight while it is quantized (SmolLM2-135M on two EPYC cores: 1.7 s in NF4, 25 November 2026)."""
SAVING_SECONDS = 0.3
UPLOAD_BYTES_PER_SECOND = 5e7
"""Of the adapter at the end: between an office line and a store on the same machine."""

SPEED_RANGE = {"measured": (0.75, 1.35), "cpu": (0.35, 4.0), "cuda": (0.4, 2.5)}
"""A device may reach so many times what is taken of it; machines whose only name is `cpu` differ most."""


@dataclass(frozen=True, kw_only=True)
class TimeEstimate:
    """Seconds on one device, with the range that the estimate is honest about.

    `breakdown` is by term and sums up to `seconds`; `uncalibrated` are the terms before any correction. `runs` of the
    same kind were measured on such a device: without any the range is the device's.
    """

    seconds: float
    low_seconds: float
    high_seconds: float
    steps: int
    tokens: int
    """Tokens of all steps together, without padding."""
    padded_tokens: int = 0
    """The same with padding: what the device computes."""
    evaluations: int = 0
    runs: int = 0
    speed: Literal["measured", "catalogue"] = "catalogue"
    """Where the device's speed is from."""
    breakdown: dict[str, float] = field(default_factory=dict)
    uncalibrated: dict[str, float] = field(default_factory=dict)

    @property
    def confidence(self) -> Confidence:
        """By what was measured of such jobs on such a device: low without any, high from three."""
        return "low" if not self.runs else "medium" if self.runs < RUNS_FOR_CONFIDENCE else "high"


def estimate_time(
    plan: TrainingPlan,
    facts: ModelFacts,
    *,
    training: TokenReport,
    speed: DeviceSpeed,
    validation: TokenReport | None = None,
    corrections: Mapping[str, Correction] | None = None,
    traced_flops: int | None = None,
) -> TimeEstimate:
    """`training` and `validation` describe the files, each read once. `traced_flops` are of one micro-batch at the full
    length; where they are known, products are scaled by what the closed form counts too few or too many."""
    learned = corrections or {}
    load = _Workload(plan, facts, speed, training, validation, traced_flops)
    terms = {
        "start": _start(speed, training, validation),
        "loading": _load(plan, facts, speed),
        "training": load.train(),
        "evaluating": load.evaluate(),
        "saving": _save(plan, facts),
    }
    spans = {term: _Span(*learned[term].apply(s.middle)) if term in learned else s for term, s in terms.items()}
    return TimeEstimate(
        seconds=sum(span.middle for span in spans.values()),
        low_seconds=sum(span.low for span in spans.values()),
        high_seconds=sum(span.high for span in spans.values()),
        steps=load.steps,
        tokens=round(training.total_tokens * load.passes),
        padded_tokens=round(load.micro_batches * load.batch.padded_tokens),
        evaluations=load.evaluations,
        runs=learned["training"].runs if "training" in learned else 0,
        speed="measured" if speed.measured else "catalogue",
        breakdown={term: span.middle for term, span in spans.items()},
        uncalibrated={term: span.middle for term, span in terms.items()},
    )


@dataclass(frozen=True)
class _Span:
    """Seconds and their range."""

    low: float
    middle: float
    high: float

    @classmethod
    def around(cls, seconds: float, *, by: float) -> "_Span":
        return cls(seconds / by, seconds, seconds * by)


class _Workload:
    """What the steps and the evaluations of one run consist of."""

    def __init__(
        self,
        plan: TrainingPlan,
        facts: ModelFacts,
        speed: DeviceSpeed,
        training: TokenReport,
        validation: TokenReport | None,
        traced_flops: int | None,
    ) -> None:
        self._plan, self._facts, self._speed = plan, facts, speed
        self._training, self._validation = training, validation
        self._lengths = describe_lengths(plan, training)
        examples = sum(count for _, count in self._lengths)
        self.batch = average_batch(self._lengths, plan.micro_batch_rows)
        self.steps = plan.total_steps(examples)
        self.passes = min(float(plan.epochs), self.steps * plan.batch_rows / max(1, examples))
        self.micro_batches = self.passes * examples / self.batch.rows
        # CPU devices of one node are shares of its memory, and compute with the same cores.
        self._side_by_side = plan.devices if speed.kind == "cuda" else 1
        evaluates = validation is not None
        self.evaluations = 1 + count_evaluations(plan, after_step=0, last_step=self.steps) if evaluates else 0
        self._scale = self._compare_to_trace(traced_flops) if traced_flops else 1.0

    def train(self) -> _Span:
        middle = self.micro_batches * self._step_seconds(self.batch) / self._side_by_side
        held_up = self.steps * STEP_SECONDS
        held_up += _count_checkpoints(self._plan, self.steps, seconds=middle) * _stage_seconds(self._plan, self._facts)
        probe = 0.0 if self.evaluations else self._probe_seconds()
        low, high = self._range(middle)
        return _Span(low + probe / 2 + held_up, middle + probe + held_up, high + 2 * probe + held_up)

    def evaluate(self) -> _Span:
        if self._validation is None:
            return _Span(0.0, 0.0, 0.0)
        lengths = describe_lengths(self._plan.model_copy(update={"packing": False}), self._validation)
        batch = average_batch(lengths, self._plan.micro_batch_rows)
        load = measure_evaluation(self._plan, self._facts, batch)
        each = load.seconds(self._speed, self._plan.compute_dtype, scale=self._scale)
        rounds = self.evaluations * sum(count for _, count in lengths) / batch.rows / self._side_by_side
        seconds = rounds * each + self._probe_seconds()
        slow, fast = _speed_range(self._speed)
        return _Span(seconds / fast, seconds, seconds / slow)

    def _range(self, middle: float) -> tuple[float, float]:
        """By the device's speed, and where nobody has counted the rows' lengths by what padding may be."""
        slow, fast = _speed_range(self._speed)
        low = high = middle
        if not self._training.lengths and not self._plan.packing and self._plan.micro_batch_rows > 1:
            rows, mean = self.batch.rows, self._training.total_tokens / max(1, self._training.rows)
            low, high = (
                self.micro_batches * self._step_seconds(even_batch(rows, tokens)) / self._side_by_side
                for tokens in (mean, max(mean, self._plan.max_seq_tokens))
            )
        return low / fast, high / slow

    def _probe_seconds(self) -> float:
        longest = min(self._plan.max_seq_tokens, max(self._lengths[-1][0], self._training.longest_row_tokens))
        return self._step_seconds(even_batch(self.batch.rows, longest))

    def _step_seconds(self, batch: MicroBatch) -> float:
        """Of one micro-batch, forward and backward."""
        load = measure_training(self._plan, self._facts, batch, labelled=self._labelled, speed=self._speed)
        return load.seconds(self._speed, self._plan.compute_dtype, scale=self._scale)

    @property
    def _labelled(self) -> float:
        """The share of tokens with a loss; one half when nobody has counted."""
        training = self._training
        return training.trained_tokens / training.total_tokens if training.trained_tokens else 0.5

    def _compare_to_trace(self, traced_flops: int) -> float:
        full = even_batch(self._plan.micro_batch_rows, self._plan.max_seq_tokens)
        load = measure_training(self._plan, self._facts, full, labelled=1.0, speed=find_speed("cuda"))
        return traced_flops / (load.flops + load.attention_flops)


def describe_lengths(plan: TrainingPlan, report: TokenReport) -> Lengths:
    """Of the examples that are trained on: as counted, or a guess."""
    if report.lengths:
        return report.lengths
    tokens = max(1, report.total_tokens)
    if plan.packing:
        return guess_lengths(rows=-(-tokens // plan.max_seq_tokens), total_tokens=tokens, longest_tokens=0)
    longest = min(plan.max_seq_tokens, report.longest_row_tokens)
    return guess_lengths(rows=max(1, report.rows), total_tokens=tokens, longest_tokens=longest)


def _speed_range(speed: DeviceSpeed) -> tuple[float, float]:
    return SPEED_RANGE["measured" if speed.measured else speed.kind]


def _start(speed: DeviceSpeed, training: TokenReport, validation: TokenReport | None) -> _Span:
    tokens = training.total_tokens + (validation.total_tokens if validation else 0)
    return _Span.around(
        LAUNCH_SECONDS + speed.start_seconds + tokens / TOKENS_PER_SECOND, by=1.5 if speed.measured else 2.5
    )


def _load(plan: TrainingPlan, facts: ModelFacts, speed: DeviceSpeed) -> _Span:
    seconds = BUILDING_SECONDS + 2 * facts.total_parameters / READING_BYTES_PER_SECOND
    seconds += BUILDING_CALLS * sum(group.count for group in get_target_groups(plan, facts)) / speed.modules_per_second
    seconds += PACKING_PASSES.get(plan.quantization, 0.0) * facts.linear_parameters / speed.elements_per_second
    return _Span.around(seconds, by=3.0)


def _save(plan: TrainingPlan, facts: ModelFacts) -> _Span:
    size = FP32_BYTES * measure_adapter(plan, facts).parameters
    return _Span.around(SAVING_SECONDS + size / UPLOAD_BYTES_PER_SECOND, by=4.0)


def _stage_seconds(plan: TrainingPlan, facts: ModelFacts) -> float:
    return STAGING_SECONDS + 3 * FP32_BYTES * measure_adapter(plan, facts).parameters / STAGING_BYTES_PER_SECOND


def _count_checkpoints(plan: TrainingPlan, steps: int, *, seconds: float) -> float:
    """Made between the first step and the last, by steps or by time; the last step's adapter is saved anyway."""
    by_steps = (steps - 1) // plan.checkpoint_steps if plan.checkpoint_steps else 0
    by_time = seconds // plan.checkpoint_seconds if plan.checkpoint_seconds else 0.0
    return max(by_steps, min(by_time, max(0, steps - 1)))
