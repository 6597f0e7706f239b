"""Which small change of a plan would make it fit, or just smaller: the answer to 'this job can never run here'.

Changes come in the order of what they cost: checkpointing and a smaller micro-batch give the same training, only
slower; 4-bit weights give a slightly different one; a shorter length cuts rows off.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.domain.estimate import MemoryEstimate, Method, can_run
from orchestrator.domain.estimate_step import compare_steps
from orchestrator.domain.placement import DeviceRoom
from orchestrator.domain.plan import INITS_OF_16_BIT, SEQ_MULTIPLE_TOKENS, TrainingPlan
from orchestrator.domain.sizer import Gauge, Gauges
from orchestrator.domain.speed import find_speed

Setting = bool | int | str


@dataclass(frozen=True, kw_only=True)
class Change:
    """`settings` are fields of the job's spec with their new values; `total_bytes` is what the job then needs.

    `saved_bytes` is how much less that is. `time_factor` is how many times as long a step then computes, where that is
    known: with checkpointing. `method` is how the new size was found.
    """

    settings: Mapping[str, Setting]
    effect: str
    total_bytes: int
    saved_bytes: int
    time_factor: float | None
    method: Method


@dataclass(frozen=True, kw_only=True)
class _Move:
    """One kind of change of these fields; `step` goes one step further, None when there is no further one.

    Along its steps memory falls, or, with 4-bit weights on a CPU, there is one step only.
    """

    effect: str
    fields: Mapping[str, str]
    """Fields of the plan that it changes, with their names in the spec."""
    step: Callable[[TrainingPlan], TrainingPlan | None]


def suggest_changes(plan: TrainingPlan, gauge: Gauge, *, device_bytes: int) -> tuple[Change, ...]:
    """The changes that make the plan fit `device_bytes`, the least costly first; empty when none does or needs to.

    Each is one kind of change, as far as it must go. Only when no single kind is enough, one combination.
    """
    (now,) = gauge.measure([plan])
    if now.total_bytes <= device_bytes:
        return ()
    search = _Search(gauge, device_bytes)
    alone = search.find_alone(plan)
    if alone:
        return tuple(_describe(plan, now, gauge, found=found, moves=(move,)) for move, found in alone)
    together = search.combine(plan)
    return () if together is None else (_describe(plan, now, gauge, found=together[0], moves=together[1]),)


def suggest_savings(plan: TrainingPlan, gauge: Gauge) -> tuple[Change, ...]:
    """What one step of each kind of change would save, the least costly kind first; only those that save something."""
    (now,) = gauge.measure([plan])
    steps = [(move, found) for move in MOVES if (found := move.step(plan)) is not None]
    sizes = gauge.measure([found for _, found in steps])
    return tuple(
        _change(plan, now, gauge, found=found, size=size, moves=(move,))
        for (move, found), size in zip(steps, sizes, strict=True)
        if size.total_bytes < now.total_bytes and size.method == now.method
    )


def estimate_least(plan: TrainingPlan, gauge: Gauge) -> int:
    """Bytes of the plan after every change as far as it goes: what no change gets below."""
    (least,) = gauge.measure([_take_all(plan, MOVES, gauge)])
    return least.total_bytes


def describe_changes(changes: tuple[Change, ...]) -> str:
    """One sentence for people, with the bytes of each choice; empty without changes."""
    if not changes:
        return ""
    return (
        "It would fit with "
        + "; or with ".join(
            f"{_describe_settings(change.settings)} ({_gib(change.total_bytes)}; {change.effect})" for change in changes
        )
        + "."
    )


def describe_misfit(plan: TrainingPlan, rooms: Sequence[DeviceRoom], gauges: Gauges) -> str:
    """Why none of these devices, even empty, could hold the plan, and what would change that: the job's error.

    Looks at the largest device of those that can run the plan at all.
    """
    able = [room for room in rooms if can_run(plan, room.kind)]
    if not able:
        return f"{_describe_inability(plan)} needs a CUDA device, and the pool has none that the job may use."
    largest = max(able, key=lambda room: (room.total_bytes, room.device_id))
    gauge = gauges[largest.kind]
    (needed,) = gauge.measure([plan])
    text = (
        f"The job needs {_gib(needed.total_bytes)} on {largest.kind}; the largest device that it may use is "
        f"{largest.device_id} ({largest.device_type}) with {_gib(largest.total_bytes)}."
    )
    changes = suggest_changes(plan, gauge, device_bytes=largest.total_bytes)
    if changes:
        return f"{text} {describe_changes(changes)}"
    return (
        f"{text} Checkpointing, the smallest micro-batch, 4-bit weights and short rows together get it down to "
        f"{_gib(estimate_least(plan, gauge))}: it takes a larger device or a smaller base model."
    )


def _describe_inability(plan: TrainingPlan) -> str:
    if plan.optimizer.endswith("_8bit"):
        return f"training.optimizer {plan.optimizer}"
    return f"quantization.compute_dtype {plan.compute_dtype}"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"


def _describe(
    plan: TrainingPlan, now: MemoryEstimate, gauge: Gauge, *, found: TrainingPlan, moves: tuple[_Move, ...]
) -> Change:
    (size,) = gauge.measure([found])
    return _change(plan, now, gauge, found=found, size=size, moves=moves)


def _change(
    plan: TrainingPlan,
    now: MemoryEstimate,
    gauge: Gauge,
    *,
    found: TrainingPlan,
    size: MemoryEstimate,
    moves: tuple[_Move, ...],
) -> Change:
    return Change(
        settings={name: getattr(found, field) for move in moves for field, name in move.fields.items()},
        effect=", ".join(move.effect for move in moves),
        total_bytes=size.total_bytes,
        saved_bytes=now.total_bytes - size.total_bytes,
        time_factor=_compare_time(plan, now, gauge, found=found, size=size),
        method=size.method,
    )


def _compare_time(
    plan: TrainingPlan, now: MemoryEstimate, gauge: Gauge, *, found: TrainingPlan, size: MemoryEstimate
) -> float | None:
    """Multiplications with checkpointing over those without, counted in both traces, else by the formula."""
    if found.model_copy(update={"gradient_checkpointing": plan.gradient_checkpointing}) != plan or found == plan:
        return None
    if now.flops and size.flops:
        return size.flops / now.flops
    return compare_steps(plan, found, gauge.model.facts, find_speed(gauge.kind))


def _describe_settings(settings: Mapping[str, Setting]) -> str:
    return " and ".join(f"{name} {str(value).lower()}" for name, value in settings.items())


def _checkpoint(plan: TrainingPlan) -> TrainingPlan | None:
    return None if plan.gradient_checkpointing else plan.model_copy(update={"gradient_checkpointing": True})


def _quantize(plan: TrainingPlan) -> TrainingPlan | None:
    if plan.quantization in {"nf4", "fp4"} or plan.lora_init in INITS_OF_16_BIT:
        return None
    return plan.model_copy(update={"quantization": "nf4"})


def _shorten(plan: TrainingPlan) -> TrainingPlan | None:
    """Half as long, in the steps that lengths are rounded to."""
    half = -(-plan.max_seq_tokens // 2 // SEQ_MULTIPLE_TOKENS) * SEQ_MULTIPLE_TOKENS
    if half >= plan.max_seq_tokens:
        return None
    return plan.model_copy(update={"max_seq_tokens": half})


MOVES = (
    _Move(
        effect="the same training, about a third slower",
        fields={"gradient_checkpointing": "training.gradient_checkpointing"},
        step=_checkpoint,
    ),
    _Move(
        effect="the same batch in smaller parts",
        fields={
            "micro_batch_rows": "training.micro_batch_size",
            "accumulation_steps": "training.gradient_accumulation",
        },
        step=TrainingPlan.halve_micro_batch,
    ),
    _Move(effect="base weights in 4 bits", fields={"quantization": "quantization.type"}, step=_quantize),
    _Move(effect="longer rows are cut off", fields={"max_seq_tokens": "training.max_seq_length"}, step=_shorten),
)


class _Search:
    """The least change after which a plan takes at most `device_bytes`."""

    def __init__(self, gauge: Gauge, device_bytes: int) -> None:
        self._gauge, self._device_bytes = gauge, device_bytes

    def find_alone(self, plan: TrainingPlan) -> list[tuple[_Move, TrainingPlan]]:
        """Each kind of change that is enough by itself, only as far as it must go.

        The furthest steps tell which kinds are enough; those go on a step at a time, all together.
        """
        walks = {number: list(_walk(plan, move)) for number, move in enumerate(MOVES)}
        last = {number: walk[-1] for number, walk in walks.items() if walk}
        enough = [number for number, is_enough in self._measure_all(last).items() if is_enough]
        found = {number: last[number] for number in enough}
        going = set(enough)
        for step in range(max((len(walks[number]) for number in enough), default=1) - 1):
            wave = {number: walks[number][step] for number in sorted(going) if step < len(walks[number]) - 1}
            for number, is_enough in self._measure_all(wave).items():
                if is_enough:
                    found[number] = wave[number]
                    going.discard(number)
        return [(MOVES[number], found[number]) for number in enough]

    def _measure_all(self, plans: Mapping[int, TrainingPlan]) -> dict[int, bool]:
        """Which of them fit."""
        sizes = self._gauge.measure(list(plans.values()))
        return {number: size.total_bytes <= self._device_bytes for number, size in zip(plans, sizes, strict=True)}

    def combine(self, plan: TrainingPlan) -> tuple[TrainingPlan, tuple[_Move, ...]] | None:
        """As few moves as their order allows, in full; then each taken back as far as the others let it."""
        for count in range(2, len(MOVES) + 1):
            found = _take_all(plan, MOVES[:count], self._gauge)
            if self._fits(found):
                return self._take_back(plan, found, MOVES[:count])
        return None

    def _fits(self, plan: TrainingPlan) -> bool:
        return self._gauge.measure([plan])[0].total_bytes <= self._device_bytes

    def _take_back(
        self, plan: TrainingPlan, found: TrainingPlan, moves: tuple[_Move, ...]
    ) -> tuple[TrainingPlan, tuple[_Move, ...]]:
        """The costliest change first: none of it if that fits, else its first step that does."""
        kept = list(moves)
        for move in reversed(moves):
            without = found.model_copy(update={field: getattr(plan, field) for field in move.fields})
            found = next(filter(self._fits, (without, *_walk(without, move))), found)
            if found == without:
                kept.remove(move)
        return found, tuple(kept)


def _walk(plan: TrainingPlan, move: _Move) -> Iterator[TrainingPlan]:
    """The plan after one step of the move, after two, and so on."""
    following = move.step(plan)
    while following is not None:
        yield following
        following = move.step(following)


def _take_all(plan: TrainingPlan, moves: tuple[_Move, ...], gauge: Gauge) -> TrainingPlan:
    """Each move in full, if it helps: 4-bit weights, for one, take more on a CPU, where the file stays mapped."""
    for move in moves:
        candidates = [plan, *list(_walk(plan, move))[-1:]]
        sizes = [size.total_bytes for size in gauge.measure(candidates)]
        plan = candidates[sizes.index(min(sizes))]
    return plan
