"""All loops of one control plane, composed and run.

Invariants: nothing here is truth. Drop this object at any moment, build another one on the same database, object store
and cluster, and it goes on where the first one was.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from orchestrator.domain.errors import UnavailableError
from orchestrator.domain.scheduling.facts import Rules
from orchestrator.objects.client import Objects
from orchestrator.runtime.launcher import Launcher
from orchestrator.scheduler.clean import Clean
from orchestrator.scheduler.contacts import Contacts
from orchestrator.scheduler.elastic import Elastic, ElasticTerms
from orchestrator.scheduler.grants import Grants
from orchestrator.scheduler.health import Health
from orchestrator.scheduler.knowledge import Knowledge
from orchestrator.scheduler.launch import Launching
from orchestrator.scheduler.lead import Lead, Leadership
from orchestrator.scheduler.loop import Runner, connect
from orchestrator.scheduler.measure import Measure
from orchestrator.scheduler.orders import Orders, OrderSettings
from orchestrator.scheduler.place import Place
from orchestrator.scheduler.publish import Publish
from orchestrator.scheduler.reap import Reap, ReapTimes
from orchestrator.scheduler.starting import Starter
from orchestrator.scheduler.survey import Survey
from orchestrator.scheduler.validate import Validate
from orchestrator.scheduler.watch import Watch, WatchTimes
from orchestrator.store.session import Store

SURVEY_SECONDS = 5.0
MEASURE_SECONDS = 2.0
ELASTIC_SECONDS = 5.0
REAP_SECONDS = 2.0
CLEAN_SECONDS = 60.0
HEALTH_SECONDS = 5.0
STOP_SECONDS = 20.0
"""How long a stopping process waits for what its loops have under way; all of it can be done again."""
INPUT_URL_FACTOR = 4
"""Inputs stay readable longer than a user's download: a node may fetch a large model first."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class ControlSettings:
    """`work_root` and `cache_dir` are folders on the nodes; all times but `retention_days` in seconds."""

    owner: str
    leader_lease_seconds: int
    attempt_lease_seconds: int
    stop_grace_seconds: int
    launch_timeout_seconds: int
    poll_seconds: float
    presigned_seconds: int
    retention_days: int
    work_root: str
    cache_dir: str
    rules: Rules = field(default_factory=Rules)
    elastic: ElasticTerms = field(default_factory=ElasticTerms)


class ControlPlane:
    """`runners` by name, in the order in which a job meets them."""

    def __init__(
        self,
        store: Store,
        objects: Objects,
        launcher: Launcher,
        *,
        knowledge: Knowledge,
        settings: ControlSettings,
        on_phase: Callable[[str, str], None] = lambda loop, phase: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.health = Health()
        self.leadership = Leadership(owner=settings.owner, lease_seconds=settings.leader_lease_seconds, clock=clock)
        self._wake: Callable[[Any], None] = lambda names: None
        self._lead = Lead(
            store,
            self.leadership,
            attempt_lease_seconds=settings.attempt_lease_seconds,
            on_gained=lambda: self._wake(("*",)),
        )
        parts = _Parts(store, objects, launcher, knowledge, settings, self.leadership, Contacts(clock))
        measure = Measure(store, launcher, interval_seconds=MEASURE_SECONDS, clock=clock)
        elastic = Elastic(store, launcher, terms=settings.elastic, interval_seconds=ELASTIC_SECONDS, clock=clock)
        self.runners: dict[str, Runner[Any, Any]] = {
            loop.name: Runner(
                loop, is_leading=self.leadership.is_leading, health=self.health, on_phase=on_phase, clock=clock
            )
            for loop in (self._lead.loop(), *parts.loops(), measure.loop(), elastic.loop())
        }
        self._wake = connect(list(self.runners.values()))

    def run(self, stop: threading.Event, *, health_path: Path | None = None) -> None:
        """Run all loops until `stop` is set, then give the leadership back. Returns in about STOP_SECONDS at most."""
        threads = [
            threading.Thread(target=runner.run, args=(stop,), name=name, daemon=True)
            for name, runner in self.runners.items()
        ]
        for thread in threads:
            thread.start()
        while not stop.wait(HEALTH_SECONDS):
            self._write_health(health_path)
        self._wake(("*",))
        deadline = time.monotonic() + STOP_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.resign()
        self._write_health(health_path)

    def resign(self) -> None:
        """Let another control plane take over at once. Without a database it will, a little later."""
        try:
            self._lead.resign()
        except UnavailableError as error:
            log.warning("could not resign", error=error.message)

    def _write_health(self, path: Path | None) -> None:
        if path is None:
            return
        try:
            self.health.write(path, leading=self.leadership.is_leading())
        except OSError as error:
            log.warning("could not write the health file", error=str(error))


class _Parts:
    """The loops, each with what it needs."""

    def __init__(
        self,
        store: Store,
        objects: Objects,
        launcher: Launcher,
        knowledge: Knowledge,
        settings: ControlSettings,
        leadership: Leadership,
        contacts: Contacts,
    ) -> None:
        self._store, self._objects, self._launcher = store, objects, launcher
        self._knowledge, self._settings = knowledge, settings
        self._leadership, self._contacts = leadership, contacts
        self._grants = Grants(objects, seconds=settings.presigned_seconds)

    def loops(self) -> tuple[Any, ...]:
        poll_seconds = self._settings.poll_seconds
        return (
            Survey(self._store, self._launcher, interval_seconds=SURVEY_SECONDS).loop(),
            self._validate().loop(interval_seconds=poll_seconds),
            self._place().loop(interval_seconds=poll_seconds),
            self._launch().loop(interval_seconds=poll_seconds),
            self._watch().loop(),
            Publish(
                self._store,
                self._objects,
                self._leadership,
                verify_adapter=self._knowledge.verify_adapter,
            ).loop(interval_seconds=poll_seconds),
            self._reap().loop(),
            Clean(
                self._store,
                self._objects,
                interval_seconds=CLEAN_SECONDS,
                retention_days=self._settings.retention_days,
            ).loop(),
        )

    def _validate(self) -> Validate:
        return Validate(
            self._store,
            self._objects,
            self._launcher,
            knowledge=self._knowledge,
            cache_dir=self._settings.cache_dir,
            input_url_seconds=INPUT_URL_FACTOR * self._settings.presigned_seconds,
        )

    def _place(self) -> Place:
        settings = self._settings
        starter = Starter(
            owner=settings.owner,
            attempt_lease_seconds=settings.attempt_lease_seconds,
            stop_grace_seconds=settings.stop_grace_seconds,
        )
        return Place(
            self._store,
            self._leadership,
            starter,
            rules=settings.rules,
            addable_types=settings.elastic.device_types,
        )

    def _launch(self) -> Launching:
        settings = self._settings
        order_settings = OrderSettings(
            attempt_lease_seconds=settings.attempt_lease_seconds,
            stop_grace_seconds=settings.stop_grace_seconds,
            input_url_seconds=INPUT_URL_FACTOR * settings.presigned_seconds,
            work_root=settings.work_root,
            cache_dir=settings.cache_dir,
        )
        return Launching(
            self._store,
            self._objects,
            self._launcher,
            leadership=self._leadership,
            orders=Orders(self._objects, self._grants, self._knowledge.describe_model, order_settings),
            contacts=self._contacts,
            stop_grace_seconds=settings.stop_grace_seconds,
        )

    def _watch(self) -> Watch:
        times = WatchTimes(
            poll_seconds=self._settings.poll_seconds,
            attempt_lease_seconds=self._settings.attempt_lease_seconds,
            stop_grace_seconds=self._settings.stop_grace_seconds,
        )
        return Watch(
            self._store,
            self._launcher,
            self._leadership,
            contacts=self._contacts,
            grants=self._grants,
            times=times,
        )

    def _reap(self) -> Reap:
        times = ReapTimes(
            interval_seconds=REAP_SECONDS,
            attempt_lease_seconds=self._settings.attempt_lease_seconds,
            stop_grace_seconds=self._settings.stop_grace_seconds,
            launch_timeout_seconds=self._settings.launch_timeout_seconds,
        )
        return Reap(self._store, self._launcher, self._leadership, contacts=self._contacts, times=times)
