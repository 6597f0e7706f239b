"""Traced sizes through the whole seam: sizer, client, process; and what every user of sizes makes of them."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from orchestrator.domain.artifacts import FileStatus
from orchestrator.domain.errors import CannotFitError
from orchestrator.domain.estimate import MemoryEstimate, estimate_memory
from orchestrator.domain.estimate_changes import suggest_changes, suggest_savings
from orchestrator.domain.jobs import Job
from orchestrator.domain.plan import resolve_plan
from orchestrator.domain.pool import BaseModel
from orchestrator.domain.sizer import Gauge, build_gauges, measure_kinds
from orchestrator.domain.spec import EstimateSpec, JobSpec
from orchestrator.domain.states import JobState
from orchestrator.domain.teams import Caller, Role
from orchestrator.runtime.launcher import DeclaredDevice
from orchestrator.runtime.sizer import TracedSizer
from orchestrator.runtime.tracer import Tracer, TracerLimits
from orchestrator.services.estimates import Estimates
from orchestrator.services.idempotency import Repeat
from orchestrator.services.jobs import Jobs
from orchestrator.services.submissions import Submissions
from orchestrator.store import devices
from orchestrator.store.session import Store
from tests.support import tracer_stub
from tests.support.plans import LLAMA2_7B, SMOLLM2_135M, make_base_model, make_plan
from tests.support.rows import add_file, add_key, add_team

GIB = 2**30


def model_that(does: str = "answer") -> BaseModel:
    return replace(make_base_model(), config={"model_type": "stub", "does": does})


@pytest.fixture
def processes(tmp_path: Path) -> Path:
    """A folder in which each stub leaves a file."""
    folder = tmp_path / "processes"
    folder.mkdir()
    return folder


@pytest.fixture
def sizer(processes: Path) -> Iterator[TracedSizer]:
    command = (sys.executable, "-S", tracer_stub.__file__, str(processes))
    tracer = Tracer(command, limits=TracerLimits(start_seconds=60))
    yield TracedSizer(tracer, 60)
    tracer.close()


def is_started(folder: Path) -> bool:
    return any(folder.iterdir())


def test_a_traced_figure_says_so(sizer: TracedSizer) -> None:
    (found,) = sizer.measure(model_that(), [make_plan(micro_batch_rows=2)], kind="cuda")
    assert (found.method, found.reason) == ("traced", None)
    assert found.device_bytes == 4 * GIB + 2


def test_a_glance_starts_nothing_and_remembers_what_was_traced(sizer: TracedSizer, processes: Path) -> None:
    plan = make_plan()
    (unknown,) = sizer.glance(model_that(), [plan], kind="cuda")
    assert unknown == replace(estimate_memory(plan, SMOLLM2_135M, "cuda"), reason="not traced yet")
    assert not is_started(processes)
    known = sizer.measure(model_that(), [plan], kind="cuda")
    assert sizer.glance(model_that(), [plan.model_copy(update={"seed": 9})], kind="cuda") == known


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (model_that("error"), "the tracer cannot do this: model_config: this architecture is not supported"),
        (model_that("crash"), "the tracer ended with 1: Segmentation fault, says the stub"),
        (make_base_model(), "the model's config was not kept with its registration"),
    ],
)
def test_the_closed_form_answers_for_what_is_not_traced(sizer: TracedSizer, model: BaseModel, reason: str) -> None:
    plan = make_plan()
    (found,) = sizer.measure(model, [plan], kind="cuda")
    assert found == replace(estimate_memory(plan, SMOLLM2_135M, "cuda"), reason=reason)


def test_only_kinds_that_the_pool_has_are_waited_for(sizer: TracedSizer) -> None:
    gauges = build_gauges(sizer, model_that(), learned={})
    found = measure_kinds(make_plan(), gauges, present={"cpu"})
    assert {kind: estimate.reason for kind, estimate in found.items()} == {"cpu": None, "cuda": "not traced yet"}
    found = measure_kinds(make_plan(), gauges, present=())
    assert {kind: estimate.method for kind, estimate in found.items()} == {"cpu": "traced", "cuda": "traced"}


def test_changes_are_found_and_compared_by_traces(sizer: TracedSizer) -> None:
    """The stub's activations: 1 GiB a row, half of it with checkpointing; 4 more FLOPs become 5."""
    gauge = Gauge(sizer=sizer, model=model_that(), kind="cuda")
    plan = make_plan(micro_batch_rows=4)
    checkpointing, smaller = suggest_changes(plan, gauge, device_bytes=5 * GIB)
    assert checkpointing.settings == {"training.gradient_checkpointing": True}
    assert (checkpointing.time_factor, checkpointing.method) == (1.25, "traced")
    assert checkpointing.saved_bytes == pytest.approx(2 * GIB * 1.03, abs=2)
    assert smaller.settings == {"training.micro_batch_size": 2, "training.gradient_accumulation": 2}
    assert [change.settings for change in suggest_savings(plan, gauge)] == [checkpointing.settings, smaller.settings]


def test_a_session_waits_no_longer_than_one_call(sizer: TracedSizer, processes: Path) -> None:
    over = replace(sizer, deadline=time.monotonic() - 1)
    (late,) = over.measure(model_that(), [make_plan()], kind="cuda")
    assert (late.method, late.reason) == ("closed_form", "the tracer did not answer everything within 60 s; ask again")
    assert not is_started(processes), "nothing more is asked"
    known = sizer.measure(model_that(), [make_plan()], kind="cuda")
    assert over.measure(model_that(), [make_plan()], kind="cuda") == known
    assert sizer.session().measure(model_that(), [make_plan()], kind="cuda") == known


class SlowTracer:
    """Knows nothing until it is let go; then one answer for whatever is asked."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.let_go = threading.Event()
        self.known: dict[str, dict[str, Any]] = {}

    def find(self, question: dict[str, Any]) -> dict[str, Any] | None:
        return self.known.get(str(question))

    def ask(self, questions: Sequence[dict[str, Any]], *, wait_seconds: float) -> list[dict[str, Any]]:
        self.asked.release()
        assert self.let_go.wait(60)
        for question in questions:
            self.known[str(question)] = tracer_stub.answer({"id": 1, **question})
        return [self.known[str(question)] for question in questions]


def test_only_so_many_wait_and_the_others_are_answered_at_once() -> None:
    tracer = SlowTracer()
    sizer = TracedSizer(cast(Tracer, tracer), 60, seats=threading.Semaphore(2))
    plans = {rows: make_plan(micro_batch_rows=rows) for rows in (1, 2, 4)}
    found: dict[int, MemoryEstimate] = {}

    def measure(rows: int) -> None:
        (found[rows],) = sizer.session().measure(model_that(), [plans[rows]], kind="cuda")

    waiting = [threading.Thread(target=measure, args=(rows,)) for rows in (1, 2)]
    for thread in waiting:
        thread.start()
        assert tracer.asked.acquire(timeout=60)
    measure(4)
    assert (found[4].method, found[4].reason) == (
        "closed_form",
        "others wait for the tracer already; ask again in some seconds",
    )
    tracer.let_go.set()
    for thread in waiting:
        thread.join(60)
    assert (found[1].method, found[2].method) == ("traced", "traced")
    measure(4)
    assert found[4].method == "traced", "a seat that was held is free again"
    none_free = replace(sizer, seats=threading.Semaphore(0))
    (known,) = none_free.measure(model_that(), [plans[4]], kind="cuda")
    assert known == found[4], "what is known takes none"


class Knowing:
    def __init__(self, model: BaseModel) -> None:
        self.model = model

    def resolve(self, name: str) -> BaseModel:
        return self.model


class CountedStore:
    """The store, and how many transactions are open."""

    def __init__(self, store: Store) -> None:
        self.store, self.open = store, 0

    @contextmanager
    def read(self) -> Iterator[Any]:
        with self.store.read() as tx, self._counted():
            yield tx

    @contextmanager
    def write(self) -> Iterator[Any]:
        with self.store.write() as tx, self._counted():
            yield tx

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.open += 1
        yield
        self.open -= 1


@dataclass(frozen=True)
class WatchedSizer:
    """Notes how many transactions are open whenever it has to wait."""

    sizer: TracedSizer
    store: CountedStore
    seen: list[int] = field(default_factory=list)

    def measure(self, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(self.store.open)
        return self.sizer.measure(*args, **kwargs)

    def glance(self, *args: Any, **kwargs: Any) -> Any:
        return self.sizer.glance(*args, **kwargs)

    def session(self) -> "WatchedSizer":
        return replace(self, sizer=self.sizer.session())


@dataclass(frozen=True)
class World:
    store: Store
    counted: CountedStore
    sizer: WatchedSizer
    caller: Caller
    file_id: str

    def submit(self) -> Job:
        """A job of 4 rows a micro-batch, for which 'auto' turns checkpointing on: the stub says 4 GiB."""
        return self.submit_to(model_that())

    def submit_to(self, model: BaseModel) -> Job:
        store = cast(Store, self.counted)
        service = Jobs(store, Submissions(store, Knowing(model), 10, self.sizer))
        return service.create(self.caller, self.spec, repeat=Repeat(fingerprint="f"))

    @property
    def spec(self) -> JobSpec:
        training = {"micro_batch_size": 4}
        return JobSpec.model_validate({"model": "one", "training_file": self.file_id, "training": training})

    def declare_gpu(self, gib: float) -> None:
        size = int(gib * GIB)
        device = DeclaredDevice(
            device_id="node-1/cuda:0", node_name="node-1", device_type="rtx", kind="cuda", index=0, total_bytes=size
        )
        with self.store.write() as tx:
            devices.record_devices(tx, [device])


@pytest.fixture
def world(store: Store, sizer: TracedSizer) -> World:
    with store.write() as tx:
        team = add_team(tx, "vision")
        file = add_file(tx, team.team_id, status=FileStatus.PROCESSED, report={"rows": 20})
        key = add_key(tx, team.team_id)
    caller = Caller(key_id=key.key_id, team_id=team.team_id, team_name="vision", role=Role.MEMBER)
    counted = CountedStore(store)
    watched = WatchedSizer(sizer, counted)
    return World(store=store, counted=counted, sizer=watched, caller=caller, file_id=file.file_id)


def test_an_estimate_is_traced_with_no_transaction_open(world: World) -> None:
    world.declare_gpu(5)
    estimates = Estimates(cast(Store, world.counted), Knowing(model_that()), world.sizer)
    spec = EstimateSpec.model_validate({"model": "one", "training": {"micro_batch_size": 4}})
    found = estimates.estimate(world.caller, spec)
    memory = found.memory["cuda"]
    assert (memory.method, memory.device_bytes) == ("traced", 4 * GIB + 2)
    (fit,) = found.devices
    assert (fit.fit, fit.needed_bytes) == ("now", memory.total_bytes)
    assert found.savings["cuda"][0].settings["training.micro_batch_size"] == 2
    assert "cpu" not in found.savings, "the pool has no such device"
    assert set(world.sizer.seen) == {0}


def test_submission_waits_for_no_trace_when_the_closed_form_fits(world: World, processes: Path) -> None:
    world.declare_gpu(5)
    world.submit()
    assert world.sizer.seen == []
    assert not is_started(processes)


def test_a_job_is_refused_only_after_a_trace(world: World) -> None:
    """The closed form says 1.3 GiB."""
    world.declare_gpu(1)
    with pytest.raises(CannotFitError, match=r"needs 4\.1 GiB on cuda; .* with 1\.0 GiB\. .* down to 2\.6 GiB"):
        world.submit()
    assert set(world.sizer.seen) == {0}


def test_a_trace_that_fits_where_the_closed_form_does_not_lets_a_job_in(world: World) -> None:
    world.declare_gpu(5)
    large = replace(model_that(), facts=LLAMA2_7B)
    plan = make_plan()
    assert estimate_memory(plan, LLAMA2_7B, "cuda").total_bytes > 5 * GIB
    assert world.submit_to(large).state is JobState.VALIDATING_FILES
    assert world.sizer.seen


def test_a_trace_that_was_made_refuses_what_the_closed_form_would_let_in(world: World) -> None:
    world.declare_gpu(4)
    plan = resolve_plan(world.spec, SMOLLM2_135M, seed=1).model_copy(update={"max_seq_tokens": 64})
    world.sizer.sizer.measure(model_that(), [plan], kind="cuda")
    with pytest.raises(CannotFitError, match=r"It would fit with training\.micro_batch_size 2"):
        world.submit()
