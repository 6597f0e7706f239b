"""What a job would take, before it is submitted: memory, time and money, and where in the pool it would fit.

The same functions size jobs for placement, so an estimate is what the scheduler will think. What the rows are is known
exactly only after tokenizing; until then it is taken from the request, or guessed from the file, and said to be.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.domain.artifacts import File, FileStatus
from orchestrator.domain.calibration import choose_speeds, merge_by_kind
from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.estimate import DeviceKind, MemoryEstimate, TimeEstimate, estimate_time
from orchestrator.domain.estimate_changes import Change, suggest_savings
from orchestrator.domain.models import ModelFacts
from orchestrator.domain.plan import SEQ_MULTIPLE_TOKENS, TokenReport, TrainingPlan, resolve_plan
from orchestrator.domain.scheduling.views import UNKNOWN_SECONDS
from orchestrator.domain.sizer import ClosedFormSizer, Gauge, Sizer, build_gauges, footprints_of, measure_kinds
from orchestrator.domain.spec import AUTO, EstimateSpec, JobShape, JobSpec
from orchestrator.domain.speed import DeviceSpeed
from orchestrator.domain.teams import Caller
from orchestrator.services.estimate_fits import DeviceFit, Sized, fit_devices, read_market
from orchestrator.services.parents import ResolveModel, resolve_model
from orchestrator.services.why import Candidate, WhyReader
from orchestrator.store import files
from orchestrator.store.calibrations import Calibrations
from orchestrator.store.session import ReadTx, Store

Source = Literal["given", "guessed", "unknown"]
BYTES_PER_TOKEN = 4
"""Of a JSONL file of English chats, keys and roles included; other languages and code take fewer."""
TOKENS_PER_ROW = 256
LONGEST_OVER_MEAN = 3
"""Guess of the longest row from the mean one: the tail of most chat data sets is longer than that of a bell curve."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The training file's rows; None where nothing is known. `tokens` counts all rows together."""

    rows: int | None
    tokens: int | None
    longest_row_tokens: int | None
    tokens_are: Source
    longest_is: Source


@dataclass(frozen=True, kw_only=True)
class JobEstimate:
    model: str
    plan: TrainingPlan
    rows: Rows
    memory: dict[DeviceKind, MemoryEstimate]
    savings: dict[DeviceKind, tuple[Change, ...]]
    """What would make it smaller, by the kinds of device that the pool has; by all kinds while it has shown none."""
    time: dict[DeviceKind, TimeEstimate]
    devices: tuple[DeviceFit, ...]
    """By device type; empty in a pool that has shown none yet."""
    warnings: tuple[str, ...]
    expected_start_at: float | None
    """If it were submitted now, POSIX seconds; None where it would never start, or nobody can say when."""


@dataclass(frozen=True)
class Estimates:
    """Without `why` nothing is said of when a job would start."""

    store: Store
    models: ResolveModel
    sizer: Sizer = field(default_factory=ClosedFormSizer)
    calibrations: Calibrations = field(default_factory=Calibrations)
    why: WhyReader | None = None

    def estimate(self, caller: Caller, spec: EstimateSpec | JobSpec) -> JobEstimate:
        """Raises InvalidRequestError, naming the field, for what would be refused at submission too."""
        spec, model, _ = resolve_model(self.store, self.models, spec, caller.visible_team_id)
        with self.store.read() as tx:
            rows = _find_rows(_find_file(tx, caller, spec), spec, model.facts)
            described = _Described(rows=rows, validation=_describe_validation(tx, caller, spec))
            market = read_market(tx, spec)
            plan = resolve_plan(spec, model.facts, seed=spec.seed or 0, tokens=_report(rows))
            taught = self.calibrations.read_by_type(tx, market.all_rooms, plan=plan, model=model)
        gauges = build_gauges(self.sizer.session(), model, learned=merge_by_kind(market.all_rooms, taught))
        speeds = choose_speeds(market.all_rooms, market.speeds, taught)
        memory = measure_kinds(plan, gauges, present=market.kinds)
        time = {
            kind: found
            for kind, size in memory.items()
            if (found := _estimate_time(plan, described, gauge=gauges[kind], speed=speeds[kind], size=size))
        }
        sized = Sized(spec=spec, plan=plan, gauges=gauges, memory=memory, time=time)
        devices = fit_devices(sized, market)
        return JobEstimate(
            model=model.name,
            plan=plan,
            rows=rows,
            memory=memory,
            savings={
                kind: suggest_savings(plan, gauges[kind]) for kind in memory if kind in market.kinds or not devices
            },
            time=time,
            devices=devices,
            warnings=tuple(_warn(spec, rows, devices)),
            expected_start_at=self._foretell(caller, sized, devices),
        )

    def _foretell(self, caller: Caller, sized: Sized, devices: Sequence[DeviceFit]) -> float | None:
        fitting = [fit for fit in devices if fit.fit != "never"]
        if self.why is None or not fitting:
            return None
        candidate = Candidate(
            shape=sized.spec,
            bytes_by_kind=footprints_of(sized.memory),
            seconds_by_type={fit.device_type: _seconds_on(sized, fit) for fit in fitting},
            costs_by_type={fit.device_type: fit.cost.high_usd_micros for fit in fitting if fit.cost is not None},
        )
        return self.why.foretell(caller, candidate)


def _seconds_on(sized: Sized, fit: DeviceFit) -> float:
    time = sized.time.get(fit.kind)
    return UNKNOWN_SECONDS if time is None else time.seconds


def _find_file(tx: ReadTx, caller: Caller, spec: EstimateSpec | JobSpec) -> File | None:
    if spec.training_file is None:
        return None
    file = files.find_file(tx, spec.training_file, caller.visible_team_id)
    if file is None:
        raise InvalidRequestError(
            f"training_file: there is no file {spec.training_file}", code="file_not_found", param="training_file"
        )
    if file.status is FileStatus.ERROR:
        raise InvalidRequestError(
            f"training_file: {file.file_id} ({file.filename}) is not valid: {file.status_details}",
            code="invalid_training_file",
            param="training_file",
        )
    return file


def _find_rows(file: File | None, spec: EstimateSpec | JobSpec, facts: ModelFacts) -> Rows:
    """What the request says, else what the file tells, else a guess."""
    described = spec if isinstance(spec, EstimateSpec) else EstimateSpec(model=spec.model)
    rows, tokens, longest = described.rows, described.tokens, described.longest_row_tokens
    if rows is None and file is not None:
        rows = int((file.report or {}).get("rows", 0)) or None
    tokens_are: Source = "given"
    if tokens is None:
        tokens_are = "unknown" if rows is None else "guessed"
        if rows is not None:
            tokens = file.size_bytes // BYTES_PER_TOKEN if file is not None else rows * TOKENS_PER_ROW
            tokens = max(rows, tokens)
    longest_is: Source = "given"
    if longest is None:
        longest_is = "unknown" if rows is None else "guessed"
        if rows is not None and tokens is not None:
            longest = min(facts.max_context_tokens, max(SEQ_MULTIPLE_TOKENS, LONGEST_OVER_MEAN * tokens // rows))
    return Rows(rows=rows, tokens=tokens, longest_row_tokens=longest, tokens_are=tokens_are, longest_is=longest_is)


def _report(rows: Rows) -> TokenReport | None:
    if rows.longest_row_tokens is None:
        return None
    return TokenReport(
        rows=rows.rows or 0,
        total_tokens=rows.tokens or 0,
        trained_tokens=0,
        longest_row_tokens=rows.longest_row_tokens,
        longest_row_line=0,
    )


@dataclass(frozen=True, kw_only=True)
class _Described:
    """Both files, as far as they are known before they are tokenized."""

    rows: Rows
    validation: TokenReport | None


def _describe_validation(tx: ReadTx, caller: Caller, spec: JobShape) -> TokenReport | None:
    """Guessed from the file's size, as a training file's tokens are."""
    file = files.find_file(tx, spec.validation_file, caller.visible_team_id) if spec.validation_file else None
    if file is None:
        return None
    rows = max(1, int((file.report or {}).get("rows", 0)))
    tokens = max(rows, file.size_bytes // BYTES_PER_TOKEN)
    return TokenReport(
        rows=rows,
        total_tokens=tokens,
        trained_tokens=0,
        longest_row_tokens=LONGEST_OVER_MEAN * tokens // rows,
        longest_row_line=0,
    )


def _estimate_time(
    plan: TrainingPlan, described: _Described, *, gauge: Gauge, speed: DeviceSpeed, size: MemoryEstimate
) -> TimeEstimate | None:
    training = _report(described.rows)
    if training is None or described.rows.rows is None or described.rows.tokens is None:
        return None
    return estimate_time(
        plan,
        gauge.model.facts,
        training=training,
        speed=speed,
        validation=described.validation,
        corrections=gauge.learned.corrections,
        traced_flops=size.flops,
    )


def _warn(spec: JobShape, rows: Rows, devices: Sequence[DeviceFit]) -> Sequence[str]:
    found = []
    if rows.rows is None:
        found.append("Give rows, or a training_file: without them there is no estimate of time and cost.")
    if rows.tokens_are == "guessed":
        found.append("The number of tokens is a guess; give tokens for a better one.")
    if rows.longest_is != "given" and spec.training.max_seq_length == AUTO:
        found.append(
            "The longest row is a guess, and memory follows it; give longest_row_tokens or training.max_seq_length."
        )
    limit = spec.max_cost_usd_micros
    if limit is not None and any(device.cost and device.cost.usd_micros > limit for device in devices):
        found.append("On some devices the predicted cost is over max_cost_usd: the job would be stopped early there.")
    return found
