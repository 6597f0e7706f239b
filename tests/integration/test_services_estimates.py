"""Estimates on both engines: with a file, with numbers, with neither; now, when empty, never; and what it costs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal

import pytest

from orchestrator.domain.artifacts import FileStatus
from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.estimate import estimate_memory
from orchestrator.domain.models import ModelFacts
from orchestrator.domain.observations import ESTIMATORS
from orchestrator.domain.pool import BaseModel
from orchestrator.domain.pricing import Rate
from orchestrator.domain.spec import EstimateSpec, JobSpec
from orchestrator.domain.teams import Caller, Role
from orchestrator.runtime.launcher import DeclaredDevice
from orchestrator.services.estimates import DeviceFit, Estimates, JobEstimate
from orchestrator.store import devices, observations, prices
from orchestrator.store.calibrations import Calibrations
from orchestrator.store.session import Store
from tests.support.callers import make_caller
from tests.support.facts import NOW
from tests.support.observed import KIND, make_observation
from tests.support.plans import LLAMA2_7B, SMOLLM2_135M, make_base_model
from tests.support.rows import add_attempt, add_file, add_queued_job, add_team

GIB = 2**30
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class OneModel:
    facts: ModelFacts = SMOLLM2_135M

    def resolve(self, name: str) -> BaseModel:
        return make_base_model(name, self.facts)


def device(
    device_id: str, gib: float, *, kind: Literal["cpu", "cuda"] = "cuda", device_type: str = "rtx"
) -> DeclaredDevice:
    return DeclaredDevice(
        device_id=device_id,
        node_name="node-1",
        device_type=device_type,
        kind=kind,
        index=0,
        total_bytes=int(gib * GIB),
    )


def declare(store: Store, *found: DeclaredDevice) -> None:
    with store.write() as tx:
        devices.record_devices(tx, found)


def ask(store: Store, caller: Caller, *, facts: ModelFacts = SMOLLM2_135M, **fields: Any) -> JobEstimate:
    spec = EstimateSpec.model_validate({"model": "smol", **fields})
    return Estimates(store, OneModel(facts)).estimate(caller, spec)


def only(estimate: JobEstimate) -> DeviceFit:
    (found,) = estimate.devices
    return found


@pytest.fixture
def caller(store: Store) -> Caller:
    return make_caller(store, Role.VIEWER, name="vision")


def test_numbers_are_enough(store: Store, caller: Caller) -> None:
    declare(store, device("node-1/cuda:0", 24))
    found = ask(store, caller, rows=100, tokens=10_000, longest_row_tokens=200)
    assert (found.rows.rows, found.rows.tokens, found.rows.longest_row_tokens) == (100, 10_000, 200)
    assert found.plan.max_seq_tokens == 256
    assert found.memory["cuda"] == estimate_memory(found.plan, SMOLLM2_135M, "cuda")
    assert found.time["cuda"].tokens == 30_000
    assert found.warnings == ()


def test_the_price_is_that_of_the_share_and_of_the_whole_device_when_exclusive(store: Store, caller: Caller) -> None:
    declare(store, device("node-1/cuda:0", 24))
    with store.write() as tx:
        prices.insert_price(tx, "rtx", 2_000_000)
    numbers = {"rows": 100, "tokens": 10_000, "longest_row_tokens": 200}
    shared = ask(store, caller, **numbers)
    fit = only(shared)
    rate = Rate(
        price_usd_micros_per_hour=2_000_000, reserved_bytes=shared.memory["cuda"].total_bytes, device_bytes=24 * GIB
    )
    assert fit.usd_micros_per_hour == 2_000_000
    assert fit.cost is not None
    assert fit.cost.usd_micros == rate.amount_usd_micros(timedelta(seconds=shared.time["cuda"].seconds))
    assert fit.cost.low_usd_micros < fit.cost.usd_micros < fit.cost.high_usd_micros
    alone = only(ask(store, caller, resources={"exclusive": True}, **numbers))
    assert alone.cost is not None
    assert alone.cost.usd_micros > fit.cost.usd_micros


def test_a_file_tells_its_rows_and_the_rest_is_guessed_and_said_to_be(store: Store, caller: Caller) -> None:
    with store.write() as tx:
        file = add_file(tx, caller.team_id, status=FileStatus.PROCESSED, report={"rows": 100}, size_bytes=40_000)
    found = ask(store, caller, training_file=file.file_id)
    assert (found.rows.rows, found.rows.tokens, found.rows.longest_row_tokens) == (100, 10_000, 300)
    assert (found.rows.tokens_are, found.rows.longest_is) == ("guessed", "guessed")
    assert len(found.warnings) == 2
    exact = ask(store, caller, training_file=file.file_id, tokens=8000, training={"max_seq_length": 128})
    assert (exact.rows.tokens, exact.plan.max_seq_tokens, exact.warnings) == (8000, 128, ())


def test_a_whole_job_spec_is_accepted(store: Store, caller: Caller) -> None:
    with store.write() as tx:
        file = add_file(tx, caller.team_id, status=FileStatus.PROCESSED, report={"rows": 10}, size_bytes=4000)
    spec = JobSpec(model="smol", training_file=file.file_id, seed=5)
    found = Estimates(store, OneModel()).estimate(caller, spec)
    assert (found.rows.rows, found.plan.seed) == (10, 5)


def test_without_rows_there_is_memory_and_no_time(store: Store, caller: Caller) -> None:
    declare(store, device("node-1/cuda:0", 24))
    found = ask(store, caller)
    assert found.time == {}
    assert only(found).cost is None
    assert only(found).fit == "now"
    assert found.plan.max_seq_tokens == 2048
    assert "Give rows" in found.warnings[0]


@pytest.mark.parametrize("status", [FileStatus.ERROR, None])
def test_a_file_that_could_not_be_submitted_cannot_be_estimated(
    store: Store, caller: Caller, status: FileStatus | None
) -> None:
    with store.write() as tx:
        owner = caller.team_id if status else add_team(tx).team_id
        file = add_file(tx, owner, status=status or FileStatus.PROCESSED, status_details="line 3: no JSON")
    with pytest.raises(InvalidRequestError) as caught:
        ask(store, caller, training_file=file.file_id)
    assert caught.value.param == "training_file"
    assert caught.value.code == ("invalid_training_file" if status else "file_not_found")


def test_now_when_empty_and_never(store: Store, caller: Caller) -> None:
    """7B in 4 bits at 1 x 2048 needs some 6 GiB: 10 GiB of which another job holds 6, 24 free ones, and 4."""
    declare(
        store,
        device("node-1/cuda:0", 10, device_type="held"),
        device("node-1/cuda:1", 24, device_type="free"),
        device("node-1/cuda:2", 4, device_type="small"),
    )
    with store.write() as tx:
        add_attempt(tx, add_queued_job(tx), device_id="node-1/cuda:0")
    found = ask(
        store,
        caller,
        facts=LLAMA2_7B,
        rows=100,
        tokens=100_000,
        quantization={"type": "nf4"},
        training={"max_seq_length": 2048, "micro_batch_size": 1, "gradient_checkpointing": True},
    )
    fits = {fit.device_type: fit for fit in found.devices}
    assert {name: fit.fit for name, fit in fits.items()} == {"held": "when_empty", "free": "now", "small": "never"}
    assert fits["small"].cost is None
    assert fits["held"].cost is not None
    assert fits["held"].needed_bytes == found.memory["cuda"].total_bytes


def test_where_it_never_fits_the_nearest_change_is_named(store: Store, caller: Caller) -> None:
    declare(store, device("node-1/cuda:0", 24))
    fit = only(
        ask(
            store, caller, facts=LLAMA2_7B, rows=100, training={"max_seq_length": 2048, "gradient_checkpointing": False}
        )
    )
    assert fit.fit == "never"
    assert dict(fit.changes[0].settings) == {"training.gradient_checkpointing": True}
    assert fit.changes[0].total_bytes <= 24 * GIB


def test_a_kind_that_cannot_run_the_plan_says_so(store: Store, caller: Caller) -> None:
    declare(store, device("node-1/cpu:0", 64, kind="cpu", device_type="cpu"))
    fit = only(ask(store, caller, rows=10, training={"optimizer": "adamw_8bit"}))
    assert (fit.fit, fit.needed_bytes, fit.changes) == ("never", None, ())


def test_devices_of_one_type_are_one_line_with_the_largest(store: Store, caller: Caller) -> None:
    declare(store, device("node-1/cuda:0", 24), device("node-1/cuda:1", 48))
    fit = only(ask(store, caller))
    assert (fit.devices, fit.largest_bytes) == (2, 48 * GIB)


def test_a_type_that_the_pool_does_not_have_is_refused_and_an_unknown_pool_is_not(store: Store, caller: Caller) -> None:
    assert ask(store, caller, resources={"device_type": "h100"}).devices == ()
    declare(store, device("node-1/cuda:0", 24))
    with pytest.raises(InvalidRequestError, match="no device of type 'h100'; it has rtx") as caught:
        ask(store, caller, resources={"device_type": "h100"})
    assert caught.value.param == "resources.device_type"


def test_a_budget_below_the_prediction_is_warned_of(store: Store, caller: Caller) -> None:
    declare(store, device("node-1/cuda:0", 24))
    numbers = {"rows": 100_000, "tokens": 100_000_000, "longest_row_tokens": 2000}
    assert "max_cost_usd" in ask(store, caller, max_cost_usd="0.01", **numbers).warnings[0]
    assert ask(store, caller, max_cost_usd="1000", **numbers).warnings == ()


def test_a_plan_that_cannot_be_is_refused(store: Store, caller: Caller) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ask(store, caller, lora={"target_modules": ["Wqkv"]})
    assert caught.value.param == "lora.target_modules"


def teach(
    store: Store, *, ratio: float, speed: float, count: int = 3, changes: Mapping[str, Any] = NOTHING, **kind: Any
) -> None:
    """So many whole runs of this kind took so many times what was predicted."""
    for _ in range(count):
        with store.write() as tx:
            attempt = add_attempt(tx, add_queued_job(tx))
            owner = {"attempt_id": attempt.attempt_id, "job_id": attempt.job_id, "team_id": attempt.team_id}
            seen = make_observation(ratio=ratio, speed=speed, kind=replace(KIND, **kind), **owner, **changes)
            observations.insert_observation(tx, seen)
            observations.insert_observation(tx, seen)


def test_an_estimate_has_the_margin_and_the_speed_that_such_jobs_had(store: Store, caller: Caller) -> None:
    declare(store, device("node-1/cpu:0", 64, kind="cpu", device_type="cpu"), device("node-1/cuda:0", 24))
    numbers = {"rows": 100, "tokens": 10_000, "longest_row_tokens": 120}
    before = ask(store, caller, **numbers)
    teach(store, ratio=1.3, speed=2.0)
    after = ask(store, caller, **numbers)
    assert after.memory["cpu"].total_bytes / before.memory["cpu"].total_bytes == pytest.approx(1.326, rel=0.03)
    assert sum(after.memory["cpu"].breakdown.values()) == after.memory["cpu"].total_bytes
    assert after.time["cpu"].seconds / before.time["cpu"].seconds == pytest.approx(2.0, rel=0.02)
    assert (before.time["cpu"].runs, after.time["cpu"].runs) == (0, 3)
    fits = {fit.device_type: fit for fit in after.devices}
    assert fits["cpu"].needed_bytes == after.memory["cpu"].total_bytes
    assert after.memory["cuda"] == before.memory["cuda"], "nothing is known of that device"


def test_what_would_make_a_job_fit_has_the_learned_margin_too(store: Store, caller: Caller) -> None:
    numbers = {"rows": 100, "tokens": 10_000, "longest_row_tokens": 120}
    raw = ask(store, caller, **numbers).memory["cpu"].total_bytes
    declare(store, device("node-1/cpu:0", (raw + 1) / GIB, kind="cpu", device_type="cpu"))
    assert only(ask(store, caller, **numbers)).fit == "now"
    teach(store, ratio=1.3, speed=1.0)
    found = ask(store, caller, **numbers)
    fit = only(found)
    assert fit.fit == "never"
    assert fit.changes
    assert all(change.total_bytes <= raw for change in fit.changes)
    for saving in found.savings["cpu"]:
        assert saving.total_bytes + saving.saved_bytes == found.memory["cpu"].total_bytes


def test_learned_of_other_formulas_is_not_learned_of_these(store: Store, caller: Caller) -> None:
    declare(store, device("node-1/cpu:0", 64, kind="cpu", device_type="cpu"))
    before = ask(store, caller, rows=100)
    with store.write() as tx:
        attempt = add_attempt(tx, add_queued_job(tx))
        owner = {"attempt_id": attempt.attempt_id, "job_id": attempt.job_id, "team_id": attempt.team_id}
        observations.insert_observation(tx, make_observation(ratio=1.9, estimator=0, **owner))
    assert ask(store, caller, rows=100).memory == before.memory


def test_what_formulas_have_taught_is_not_crowded_out_by_traces(store: Store) -> None:
    teach(store, ratio=1.3, speed=1.0)
    later = {"estimator": ESTIMATORS["traced"], "ended_at": NOW + timedelta(hours=1)}
    teach(store, ratio=1.0, speed=1.0, count=4, changes=later)
    with store.read() as tx:
        newest = observations.list_like(tx, KIND, observations.LEVELS[0], 3)
    assert [seen.estimator for seen in newest] == [ESTIMATORS["traced"]] * 3 + [ESTIMATORS["closed_form"]] * 3


def test_calibrations_are_remembered_for_some_seconds(store: Store) -> None:
    now = [100.0]
    calibrations = Calibrations(kept_seconds=5.0, clock=lambda: now[0])

    def factor() -> float:
        with store.read() as tx:
            return calibrations.read(tx, KIND).memory_factor("closed_form")

    assert factor() == 1.0
    teach(store, ratio=1.3, speed=1.0)
    now[0] += 4.9
    assert factor() == 1.0
    now[0] += 0.1
    assert factor() > 1.2


def test_observations_come_back_as_they_were_by_level_and_newest_first(store: Store) -> None:
    teach(store, ratio=1.5, speed=1.0)
    teach(store, ratio=1.5, speed=1.0, base_model="other")
    teach(store, ratio=1.5, speed=1.0, family="other", base_model="third", device_type="cpu")
    with store.read() as tx:
        found = [observations.list_like(tx, KIND, level) for level in observations.LEVELS]
        assert [len(level) for level in found] == [9, 6, 3]
        assert len(observations.list_like(tx, KIND, observations.LEVELS[0], 4)) == 4
        (newest, *_) = observations.list_newest(tx, 2)
        seen = found[2][0]
    expected = make_observation(ratio=1.5, attempt_id=seen.attempt_id, job_id=seen.job_id, team_id=seen.team_id)
    assert seen == expected
    assert newest.ended_at == expected.ended_at


def test_evaluations_over_the_validation_file_take_their_time(store: Store, caller: Caller) -> None:
    with store.write() as tx:
        held_out = add_file(tx, caller.team_id, status=FileStatus.PROCESSED, report={"rows": 100}, size_bytes=40_000)
    found = ask(store, caller, rows=100, tokens=10_000, validation_file=held_out.file_id)
    assert found.time["cpu"].breakdown["evaluating"] > 1.0
    assert found.time["cpu"].evaluations > 2
