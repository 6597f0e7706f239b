"""What the API answers with, typed. Names, units and times (Unix seconds) are those of the wire.

Fields that a newer server adds are kept, as attributes and in `model_dump()`; so a client may be older than its server.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

FINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled"})


class Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


R = TypeVar("R")


@dataclass(frozen=True)
class Page(Generic[R]):
    """One page of a list; `after=page.data[-1].id` asks for the next."""

    data: tuple[R, ...]
    has_more: bool

    def __iter__(self) -> Iterator[R]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


class File(Result):
    id: str
    filename: str
    bytes: int
    created_at: int
    purpose: str
    status: str
    expires_at: int | None = None
    status_details: str | None = None


class JobError(Result):
    code: str
    message: str
    param: str | None = None


class Progress(Result):
    step: int
    total_steps: int | None
    percent: float | None
    trained_tokens: int | None


class CostSummary(Result):
    """`lost` is time that the platform lost; it is billed to nobody. `final` once nothing can be added."""

    billed_usd_micros: int
    billed_usd: str
    lost_usd_micros: int
    lost_usd: str
    final: bool


class Parent(Result):
    """What a job continues from: a fine-tuned model (`adapter_id`) or a checkpoint (`checkpoint_id`)."""

    name: str
    job_id: str
    adapter_id: str | None = None
    checkpoint_id: str | None = None
    step: int


class Job(Result):
    id: str
    status: str
    model: str
    created_at: int
    training_file: str
    validation_file: str | None = None
    seed: int
    error: JobError | None = None
    fine_tuned_model: str | None = None
    result_files: tuple[str, ...] = ()
    finished_at: int | None = None
    started_at: int | None = None
    trained_tokens: int | None = None
    estimated_finish: int | None = None
    metadata: dict[str, str] | None = None
    suffix: str | None = None
    team: str | None = None
    parent: Parent | None = None
    phase: str | None = None
    progress: Progress | None = None
    attempt: int = 0
    cost: CostSummary | None = None
    plan: dict[str, Any] | None = None
    estimate: dict[str, Any] | None = None
    adapter_id: str | None = None
    priority: int = 0
    priority_class: str = "normal"
    held: bool = False
    array_id: str | None = None
    preemptions: int = 0
    max_cost_usd: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def is_final(self) -> bool:
        return self.status in FINAL_STATUSES


class Event(Result):
    id: str
    created_at: int
    level: str
    message: str
    type: str | None = None
    data: dict[str, Any] | None = None


class LogLine(Result):
    """`at` is Unix seconds with a fraction."""

    id: str
    attempt: int
    at: float
    stream: str
    level: str
    text: str


class MetricPoint(Result):
    """Figures of one step: train_loss, eval_loss, learning_rate, tokens_per_second …"""

    id: str
    attempt: int
    at: float
    step: int
    values: dict[str, float]


class CostEntry(Result):
    """`device_id` is None in entries of earlier versions, whose attempts had one device."""

    attempt_id: str
    device_id: str | None = None
    device_type: str
    started_at: int
    ended_at: int
    seconds: float
    price_usd_micros_per_hour: int
    amount_usd_micros: int
    amount_usd: str
    billed: bool


class Cost(CostSummary):
    """The bill of a job; the billed entries sum to `billed_usd_micros` exactly."""

    job_id: str
    entries: tuple[CostEntry, ...]


class Failure(Result):
    code: str
    message: str
    blame: str
    hint: str


class Attempt(Result):
    id: str
    number: int
    state: str
    phase: str | None = None
    device_id: str
    device_type: str
    device_ids: tuple[str, ...] = ()
    reserved_bytes: int
    peak_allocated_bytes: int = 0
    peak_reserved_bytes: int = 0
    peak_device_bytes: int = 0
    resumed_from_step: int | None = None
    failure: Failure | None = None
    started_at: int | None = None
    ended_at: int | None = None


class Checkpoint(Result):
    id: str
    created_at: int
    step_number: int
    metrics: dict[str, float | None]


class StoredFile(Result):
    name: str
    size_bytes: int
    sha256: str


class RemoteFile(StoredFile):
    url: str


class Adapter(Result):
    id: str
    name: str
    """The fine-tuned model's name."""
    job_id: str
    base_model: str
    parent: Parent | None = None
    created_at: int
    size_bytes: int
    files: tuple[StoredFile, ...]


class Model(Result):
    id: str
    created: int
    owned_by: str


class BaseModelInfo(Result):
    id: str
    source: str
    location: str
    revision: str
    created_at: int
    size_bytes: int
    facts: dict[str, Any]


class Price(Result):
    device_type: str
    version: int
    usd_micros_per_hour: int
    usd_per_hour: str
    created_at: int


class PredictedRows(Result):
    """What is known of the training file; `tokens_are` and `longest_is` say whether it was given or guessed."""

    rows: int | None
    tokens: int | None
    longest_row_tokens: int | None
    tokens_are: str
    longest_is: str


class Change(Result):
    """A change of the job that makes it smaller, so that it may fit: fields with their new values.

    `time_factor` is how many times as much a step then computes, where that changes.
    """

    settings: dict[str, Any]
    effect: str
    total_bytes: int
    saved_bytes: int | None = None
    time_factor: float | None = None
    method: str | None = None


class PredictedMemory(Result):
    """Bytes on one device. `total_bytes`, the sum of the breakdown, is what a job reserves.

    The three peaks are of tensors, of what the allocator holds for them, and of the whole process. `method` is traced
    or closed_form; `reason` says why it was not traced. `savings` would make it smaller.
    """

    total_bytes: int
    breakdown: dict[str, int]
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    device_bytes: int | None = None
    method: str | None = None
    reason: str | None = None
    savings: tuple[Change, ...] = ()


class PredictedTime(Result):
    """`confidence` is low before a job of this kind was measured on such a device, and high after three."""

    seconds: float
    low_seconds: float
    high_seconds: float
    steps: int
    padded_tokens: int | None = None
    runs: int = 0
    confidence: str = "low"
    speed: str | None = None
    """Where the device's own speed is from: measured or catalogue."""
    breakdown: dict[str, float] = {}


class PredictedCost(Result):
    usd_micros: int
    usd: str
    low_usd_micros: int
    high_usd_micros: int
    confidence: str = "low"


class DeviceFit(Result):
    """What one type of device would do with the job; `fit` is now, when_empty or never."""

    device_type: str
    kind: str
    devices: int
    largest_bytes: int
    needed_bytes: int | None
    fit: str
    usd_micros_per_hour: int
    cost: PredictedCost | None
    changes: tuple[Change, ...]


class Estimate(Result):
    """What a job would take. `memory` and `time` are by kind of device: cpu, cuda."""

    model: str
    plan: dict[str, Any]
    rows: PredictedRows
    memory: dict[str, PredictedMemory]
    time: dict[str, PredictedTime]
    devices: tuple[DeviceFit, ...]
    warnings: tuple[str, ...] = ()
    expected_start_at: int | None = None
    """If it were submitted now."""


class PredictionErrors(Result):
    """|measured / predicted - 1| over `count` attempts; `over` of them took more than predicted."""

    count: int
    over: int
    median: float | None
    p95: float | None
    worst: float | None


class Accuracy(Result):
    """How far estimates were off over the newest attempts of the pool."""

    attempts: int
    since: int | None
    out_of_memory: int
    memory: PredictionErrors
    memory_uncalibrated: PredictionErrors
    time: PredictionErrors


class Deleted(Result):
    id: str
    deleted: bool
