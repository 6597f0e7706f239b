"""The composition root: from settings to store, objects, use cases and loops, each handed only what it needs.

Importing this brings neither Ray nor torch; the launcher is made by `orchestrator.__main__` and passed in.
"""

import logging
import os
import secrets
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from structlog.typing import Processor

from orchestrator.domain.scheduling.facts import Rules
from orchestrator.domain.sizer import ClosedFormSizer, Sizer
from orchestrator.objects.client import Objects
from orchestrator.runtime.launcher import Launcher
from orchestrator.runtime.previewing import run_preview
from orchestrator.runtime.sizer import TracedSizer
from orchestrator.runtime.tracer import Tracer, TracerLimits
from orchestrator.scheduler.control import INPUT_URL_FACTOR, ControlPlane, ControlSettings
from orchestrator.scheduler.elastic import ElasticTerms
from orchestrator.scheduler.knowledge import Knowledge
from orchestrator.scheduler.validate import PARALLEL_VALIDATIONS
from orchestrator.services.accuracy import AccuracyReader
from orchestrator.services.adapters import Adapters
from orchestrator.services.arrays import Arrays
from orchestrator.services.costs import Costs
from orchestrator.services.estimates import Estimates
from orchestrator.services.files import Files
from orchestrator.services.health import Health
from orchestrator.services.hub import Hub
from orchestrator.services.jobs import Jobs
from orchestrator.services.keys import Keys
from orchestrator.services.models import Models
from orchestrator.services.pool import Pool
from orchestrator.services.previews import Previews
from orchestrator.services.queue import Queue
from orchestrator.services.simulation import History
from orchestrator.services.submissions import Submissions
from orchestrator.services.tail import Tail
from orchestrator.services.teams import Teams
from orchestrator.services.uploads import Uploads
from orchestrator.services.usage import UsageReader
from orchestrator.services.why import WhyReader
from orchestrator.settings import Settings
from orchestrator.store.calibrations import Calibrations
from orchestrator.store.session import Store


@dataclass(frozen=True, kw_only=True)
class Services:
    """Every use case, on one database and one bucket. `close` ends the connections and the tracer, if one was started.

    `tracer` is None when estimates are by formulas only.
    """

    store: Store
    objects: Objects
    accuracy: AccuracyReader
    tracer: Tracer | None
    adapters: Adapters
    arrays: Arrays
    costs: Costs
    estimates: Estimates
    files: Files
    health: Health
    history: History
    jobs: Jobs
    keys: Keys
    models: Models
    pool: Pool
    previews: Previews
    queue: Queue
    tail: Tail
    teams: Teams
    uploads: Uploads
    usage: UsageReader
    why: WhyReader

    def close(self) -> None:
        self.tail.close()
        if self.tracer is not None:
            self.tracer.close()
        self.objects.close()
        self.store.close()


def open_store(settings: Settings) -> Store:
    """The database of the settings; no connection is made yet, but SQLite's folder is."""
    return Store(settings.resolved_database_url, connections=settings.database_connections)


def open_objects(settings: Settings) -> Objects:
    return Objects(
        settings.s3_endpoint,
        settings.s3_region,
        bucket=settings.s3_bucket,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key.get_secret_value(),
        public_endpoint=settings.s3_public_endpoint,
    )


def build_tracer(settings: Settings) -> Tracer | None:
    """Nothing is started before the first estimate that needs it."""
    if settings.estimator == "closed_form":
        return None
    limits = TracerLimits(
        start_seconds=settings.estimator_start_seconds,
        answer_seconds=settings.estimator_answer_seconds,
        memory_bytes=settings.estimator_memory_bytes,
    )
    return Tracer(settings.estimator_command, limits=limits)


def build_sizer(tracer: Tracer | None, *, wait_seconds: float, seats: int) -> Sizer:
    """At most `seats` threads wait for the tracer through this sizer."""
    if tracer is None:
        return ClosedFormSizer("TUNEPOOL_ESTIMATOR is closed_form")
    return TracedSizer(tracer, wait_seconds, seats=threading.Semaphore(seats))


def tracer_seats(settings: Settings) -> int:
    """Requests that may wait for a trace at once: fewer than half of the threads that answer requests, of which there
    are a little over half as many as database connections."""
    return max(1, settings.database_connections // 4)


def build_services(settings: Settings) -> Services:
    store, objects, tracer = open_store(settings), open_objects(settings), build_tracer(settings)
    sizer = build_sizer(tracer, wait_seconds=settings.estimator_wait_seconds, seats=tracer_seats(settings))
    calibrations = Calibrations()
    files = Files(
        store=store,
        objects=objects,
        max_file_bytes=settings.max_file_bytes,
        presigned_seconds=settings.presigned_seconds,
    )
    models = Models(
        store=store,
        objects=objects,
        roots=tuple(root.resolve() for root in settings.model_roots),
        hub=Hub(token=settings.hub_token.get_secret_value() or None) if settings.allow_hub else None,
        input_url_seconds=INPUT_URL_FACTOR * settings.presigned_seconds,
    )
    why = WhyReader(store, read_rules(settings))
    submissions = Submissions(store, models, settings.min_training_rows, sizer, calibrations)
    return Services(
        store=store,
        objects=objects,
        accuracy=AccuracyReader(store),
        tracer=tracer,
        adapters=Adapters(store=store, objects=objects, presigned_seconds=settings.presigned_seconds),
        arrays=Arrays(store, submissions),
        costs=Costs(store),
        estimates=Estimates(store, models, sizer, calibrations, why),
        files=files,
        health=Health(store=store, objects=objects, leader_lease_seconds=settings.leader_lease_seconds),
        jobs=Jobs(store, submissions),
        history=History(store),
        keys=Keys(store),
        models=models,
        pool=Pool(store, read_rules(settings)),
        previews=Previews(store, files, source=models.source, render=run_preview, cache_dir=str(cache_dir(settings))),
        queue=Queue(store),
        tail=Tail(store, poll_seconds=settings.poll_seconds),
        teams=Teams(store),
        uploads=Uploads(store=store, objects=objects, max_upload_bytes=settings.max_upload_bytes),
        usage=UsageReader(store),
        why=why,
    )


def build_control_plane(settings: Settings, services: Services, launcher: Launcher) -> ControlPlane:
    """All loops on this launcher. What loops need of use cases goes in as functions."""
    return ControlPlane(
        services.store,
        services.objects,
        launcher,
        knowledge=Knowledge(
            describe_model=services.models.source_for,
            verify_adapter=services.adapters.verify,
            sizer=build_sizer(
                services.tracer, wait_seconds=settings.estimator_start_seconds, seats=PARALLEL_VALIDATIONS
            ),
        ),
        settings=ControlSettings(
            owner=name_owner(),
            leader_lease_seconds=settings.leader_lease_seconds,
            attempt_lease_seconds=settings.attempt_lease_seconds,
            stop_grace_seconds=settings.stop_grace_seconds,
            launch_timeout_seconds=settings.launch_timeout_seconds,
            poll_seconds=settings.poll_seconds,
            presigned_seconds=settings.presigned_seconds,
            retention_days=settings.retention_days,
            work_root=str(settings.data_dir.absolute() / "attempts"),
            cache_dir=str(cache_dir(settings)),
            rules=read_rules(settings),
            elastic=ElasticTerms(
                asks=settings.autoscale,
                device_types=settings.autoscale_device_types,
                idle_seconds=60 * settings.idle_drain_minutes or None,
            ),
        ),
    )


def read_rules(settings: Settings) -> Rules:
    """The scheduling model's numbers, where they are not its defaults."""
    return Rules(
        placement=settings.placement,
        preemption=settings.preemption,
        borrower_fairness=settings.borrower_fairness,
        turns_hours=settings.turns_hours,
        turns_spare_larger=settings.turns_spare_larger,
        moves=settings.moves,
        pin_after_seconds=settings.pin_after_seconds,
        least_run_seconds=settings.least_run_seconds,
        least_grace_seconds=settings.stop_grace_seconds,
    )


def name_owner() -> str:
    """Another name for each start: the leader's lease of a process that was killed is not taken for our own."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def cache_dir(settings: Settings) -> Path:
    """Where nodes keep downloaded models."""
    return (settings.worker_cache_dir or settings.data_dir / "cache").absolute()


def health_path(settings: Settings) -> Path:
    return settings.data_dir.absolute() / "scheduler-health.json"


def configure_logs(settings: Settings) -> None:
    """One line per event on standard error, JSON or plain, with what libraries log; tracebacks hold no values."""
    level = getattr(logging, settings.log_level.upper())
    shared: Sequence[Processor] = (
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(settings)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for library in ("alembic", "botocore", "urllib3"):
        logging.getLogger(library).setLevel(max(level, logging.WARNING))


def _renderers(settings: Settings) -> Sequence[Processor]:
    if settings.log_format == "json":
        return (structlog.processors.format_exc_info, structlog.processors.JSONRenderer())
    return (structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),)
