"""Laws of plans and their estimates: a plan is whole or refused, and no estimate goes down where more is done."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.estimate import KINDS, estimate_memory, estimate_time
from orchestrator.domain.estimate_changes import estimate_least, suggest_changes
from orchestrator.domain.plan import TokenReport, TrainingPlan, resolve_plan
from orchestrator.domain.sizer import ClosedFormSizer, Gauge
from orchestrator.domain.spec import JobSpec
from orchestrator.domain.speed import find_speed
from tests.support.plans import LLAMA_LINEARS, SMOLLM2_135M, make_base_model, make_plan


def auto_or(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.just("auto") | numbers


specs = st.fixed_dictionaries(
    {
        "batch_size": auto_or(st.integers(1, 256)),
        "n_epochs": auto_or(st.integers(1, 50)),
        "micro_batch_size": auto_or(st.integers(1, 64)),
        "gradient_accumulation": auto_or(st.integers(1, 64)),
        "max_seq_length": auto_or(st.integers(8, 10_000)),
        "quantization": st.sampled_from(["none", "nf4", "fp4", "int8"]),
        "init": st.sampled_from(["default", "gaussian", "pissa", "olora", "loftq"]),
        "targets": st.just("auto") | st.lists(st.sampled_from([*LLAMA_LINEARS, "lm_head"]), max_size=4),
    }
)
reports = st.none() | st.builds(
    TokenReport,
    rows=st.integers(1, 100_000),
    total_tokens=st.integers(1, 10**9),
    trained_tokens=st.integers(0, 10**6),
    longest_row_tokens=st.integers(1, 20_000),
    longest_row_line=st.integers(1, 100),
)


@given(asked=specs, tokens=reports)
def test_a_plan_is_whole_or_refused_with_its_field(asked: dict[str, Any], tokens: TokenReport | None) -> None:
    names = ("micro_batch_size", "gradient_accumulation", "max_seq_length")
    spec = JobSpec.model_validate(
        {
            "model": "smol",
            "training_file": "file-1",
            "method": {
                "type": "supervised",
                "supervised": {"hyperparameters": {name: asked[name] for name in ("batch_size", "n_epochs")}},
            },
            "training": {name: asked[name] for name in names},
            "quantization": {"type": asked["quantization"]},
            "lora": {"init": asked["init"], "target_modules": asked["targets"]},
        }
    )
    try:
        plan = resolve_plan(spec, SMOLLM2_135M, seed=1, tokens=tokens)
    except InvalidRequestError as error:
        refused = error.param
    else:
        refused = None
        assert_planned_as_asked(plan, asked)
    assert refused in {
        None,
        "training.micro_batch_size",
        "training.gradient_accumulation",
        "training.max_seq_length",
        "lora.target_modules",
        "lora.init",
    }


def assert_planned_as_asked(plan: TrainingPlan, asked: dict[str, Any]) -> None:
    assert plan.micro_batch_rows * plan.accumulation_steps == plan.batch_rows
    assert 8 <= plan.max_seq_tokens <= SMOLLM2_135M.max_context_tokens
    assert set(plan.lora_target_modules) <= SMOLLM2_135M.linear_names
    assert plan.lora_target_modules
    for given_value, planned in (
        (asked["batch_size"], plan.batch_rows),
        (asked["micro_batch_size"], plan.micro_batch_rows),
        (asked["gradient_accumulation"], plan.accumulation_steps),
        (asked["max_seq_length"], plan.max_seq_tokens),
    ):
        assert given_value in {"auto", planned}
    assert TrainingPlan.model_validate_json(plan.model_dump_json()) == plan


plans = st.builds(
    lambda micro, length, checkpointing, quantization, rank, dropout, dora, packing: make_plan(
        micro_batch_rows=micro,
        max_seq_tokens=64 * length,
        gradient_checkpointing=checkpointing,
        quantization=quantization,
        lora_r=rank,
        lora_dropout=dropout,
        use_dora=dora,
        packing=packing,
    ),
    st.integers(1, 32),
    st.integers(1, 64),
    st.booleans(),
    st.sampled_from(["none", "nf4", "fp4", "int8"]),
    st.sampled_from([1, 8, 64, 256]),
    st.sampled_from([0.0, 0.1]),
    st.booleans(),
    st.booleans(),
)


@given(plan=plans, kind=st.sampled_from(KINDS))
def test_memory_grows_with_rows_length_and_rank(plan: TrainingPlan, kind: Any) -> None:
    needed = estimate_memory(plan, SMOLLM2_135M, kind).total_bytes
    for field, more in (
        ("micro_batch_rows", plan.micro_batch_rows + 1),
        ("max_seq_tokens", plan.max_seq_tokens + 64),
        ("lora_r", plan.lora_r + 1),
    ):
        larger = plan.model_copy(update={field: more})
        assert estimate_memory(larger, SMOLLM2_135M, kind).total_bytes > needed


ROWS = TokenReport(
    rows=100,
    total_tokens=10_000,
    trained_tokens=5000,
    longest_row_tokens=100,
    longest_row_line=1,
    lengths=((100, 100),),
)


@given(plan=plans, kind=st.sampled_from(KINDS))
def test_checkpointing_never_takes_more_memory_and_always_more_time(plan: TrainingPlan, kind: Any) -> None:
    kept = plan.model_copy(update={"gradient_checkpointing": False})
    again = plan.model_copy(update={"gradient_checkpointing": True})
    kept_bytes = estimate_memory(kept, SMOLLM2_135M, kind).total_bytes
    assert estimate_memory(again, SMOLLM2_135M, kind).total_bytes <= kept_bytes
    kept_time, again_time = (
        estimate_time(one, SMOLLM2_135M, training=ROWS, speed=find_speed(kind)) for one in (kept, again)
    )
    assert again_time.seconds > kept_time.seconds
    assert again_time.low_seconds <= again_time.seconds <= again_time.high_seconds


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(plan=plans, kind=st.sampled_from(KINDS), share=st.floats(0.05, 1.2))
def test_a_suggestion_is_there_whenever_one_can_be_and_fits(plan: TrainingPlan, kind: Any, share: float) -> None:
    needed = estimate_memory(plan, SMOLLM2_135M, kind).total_bytes
    device_bytes = int(share * needed)
    gauge = Gauge(sizer=ClosedFormSizer(), model=make_base_model(), kind=kind)
    changes = suggest_changes(plan, gauge, device_bytes=device_bytes)
    if needed <= device_bytes or device_bytes < estimate_least(plan, gauge):
        assert changes == ()
        return
    assert changes
    assert all(change.total_bytes <= device_bytes for change in changes)
    assert all(change.total_bytes + change.saved_bytes == needed for change in changes)
