"""Which small change of a plan would make it fit: the answer to 'this job can never run here'.

Changes come in the order of what they cost: checkpointing and a smaller micro-batch give the same training, only
slower; 4-bit weights give a slightly different one; a shorter length cuts rows off.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.domain.estimate import can_run, estimate_memory
from orchestrator.domain.models import ModelFacts
from orchestrator.domain.placement import DeviceKind, DeviceRoom
from orchestrator.domain.plan import INITS_OF_16_BIT, SEQ_MULTIPLE_TOKENS, TrainingPlan

Setting = bool | int | str


@dataclass(frozen=True, kw_only=True)
class Change:
    """`settings` are fields of the job's spec with their new values; `total_bytes` is what the job then needs."""

    settings: Mapping[str, Setting]
    effect: str
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class _Move:
    """One kind of change of these fields; `step` goes one step further, None when there is no further one."""

    effect: str
    fields: Mapping[str, str]
    """Fields of the plan that it changes, with their names in the spec."""
    step: Callable[[TrainingPlan], TrainingPlan | None]


def suggest_changes(
    plan: TrainingPlan, facts: ModelFacts, *, device_bytes: int, kind: DeviceKind
) -> tuple[Change, ...]:
    """The changes that make the plan fit `device_bytes`, the least costly first; empty when none does or needs to.

    Each is one kind of change, as far as it must go. Only when no single kind is enough, one combination.
    """

    def measure(candidate: TrainingPlan) -> int:
        return estimate_memory(candidate, facts, kind).total_bytes

    def fits(candidate: TrainingPlan) -> bool:
        return measure(candidate) <= device_bytes

    if fits(plan):
        return ()
    alone = [(move, found) for move in MOVES if (found := next(filter(fits, _walk(plan, move)), None)) is not None]
    if alone:
        return tuple(_describe(found, facts, kind, moves=(move,)) for move, found in alone)
    together = _combine(plan, fits, measure)
    return () if together is None else (_describe(together[0], facts, kind, moves=together[1]),)


def estimate_least(plan: TrainingPlan, facts: ModelFacts, kind: DeviceKind) -> int:
    """Bytes of the plan after every change as far as it goes: what no change gets below."""

    def measure(candidate: TrainingPlan) -> int:
        return estimate_memory(candidate, facts, kind).total_bytes

    return measure(_take_all(plan, MOVES, measure))


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


def describe_misfit(plan: TrainingPlan, facts: ModelFacts, rooms: Sequence[DeviceRoom]) -> str:
    """Why none of these devices, even empty, could hold the plan, and what would change that: the job's error.

    Looks at the largest device of those that can run the plan at all.
    """
    able = [room for room in rooms if can_run(plan, room.kind)]
    if not able:
        return f"{_describe_inability(plan)} needs a CUDA device, and the pool has none that the job may use."
    largest = max(able, key=lambda room: (room.total_bytes, room.device_id))
    needed = estimate_memory(plan, facts, largest.kind).total_bytes
    text = (
        f"The job needs {_gib(needed)} on {largest.kind}; the largest device that it may use is {largest.device_id} "
        f"({largest.device_type}) with {_gib(largest.total_bytes)}."
    )
    changes = suggest_changes(plan, facts, device_bytes=largest.total_bytes, kind=largest.kind)
    if changes:
        return f"{text} {describe_changes(changes)}"
    least = estimate_least(plan, facts, largest.kind)
    return (
        f"{text} Checkpointing, the smallest micro-batch, 4-bit weights and short rows together get it down to "
        f"{_gib(least)}: it takes a larger device or a smaller base model."
    )


def _describe_inability(plan: TrainingPlan) -> str:
    if plan.optimizer.endswith("_8bit"):
        return f"training.optimizer {plan.optimizer}"
    return f"quantization.compute_dtype {plan.compute_dtype}"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"


def _describe(found: TrainingPlan, facts: ModelFacts, kind: DeviceKind, *, moves: tuple[_Move, ...]) -> Change:
    return Change(
        settings={name: getattr(found, field) for move in moves for field, name in move.fields.items()},
        effect=", ".join(move.effect for move in moves),
        total_bytes=estimate_memory(found, facts, kind).total_bytes,
    )


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


def _walk(plan: TrainingPlan, move: _Move) -> Iterator[TrainingPlan]:
    """The plan after one step of the move, after two, and so on."""
    following = move.step(plan)
    while following is not None:
        yield following
        following = move.step(following)


def _take_all(plan: TrainingPlan, moves: tuple[_Move, ...], measure: Callable[[TrainingPlan], int]) -> TrainingPlan:
    """Each move as far as it helps: 4-bit weights, for one, take more on a CPU, where the file stays mapped."""
    for move in moves:
        plan = min((plan, *_walk(plan, move)), key=measure)
    return plan


def _combine(
    plan: TrainingPlan, fits: Callable[[TrainingPlan], bool], measure: Callable[[TrainingPlan], int]
) -> tuple[TrainingPlan, tuple[_Move, ...]] | None:
    """As few moves as their order allows, in full; then each taken back as far as the others let it."""
    for count in range(2, len(MOVES) + 1):
        found = _take_all(plan, MOVES[:count], measure)
        if fits(found):
            return _take_back(plan, found, MOVES[:count], fits)
    return None


def _take_back(
    plan: TrainingPlan, found: TrainingPlan, moves: tuple[_Move, ...], fits: Callable[[TrainingPlan], bool]
) -> tuple[TrainingPlan, tuple[_Move, ...]]:
    """The costliest change first: none of it if that fits, else its first step that does."""
    kept = list(moves)
    for move in reversed(moves):
        without = found.model_copy(update={field: getattr(plan, field) for field in move.fields})
        found = next(filter(fits, (without, *_walk(without, move))))
        if found == without:
            kept.remove(move)
    return found, tuple(kept)
