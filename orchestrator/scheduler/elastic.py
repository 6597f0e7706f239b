"""A pool that grows and shrinks: the cluster is asked for devices that jobs wait for, and idle nodes are put to rest.

Invariants: a node is put to rest only if nothing holds a device there, under the scheduler's lock, so that it can leave
without a job. What is asked for replaces what was asked for before; it is said again now and then, because a head that
was lost has forgotten it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from orchestrator.domain.elastic import (
    DeviceGroup,
    ElasticPool,
    choose_done_resting,
    choose_idle_nodes,
    choose_request,
)
from orchestrator.domain.pool import Device
from orchestrator.runtime.launcher import Launcher
from orchestrator.scheduler.loop import Loop
from orchestrator.store import audit, devices, holds, lacks, nodes, spells
from orchestrator.store.scheduling import read_claims
from orchestrator.store.session import ReadTx, Store, WriteTx

REQUEST_AGAIN_SECONDS = 60.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class ElasticTerms:
    """`asks` is whether the cluster's autoscaler is told what is lacking, of `device_types` only if any are named.
    `idle_seconds` is how long nothing has run on a node that is put to rest; None for never."""

    asks: bool = False
    device_types: tuple[str, ...] = ()
    idle_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Rest:
    """Put the node to rest, or end its rest."""

    node_name: str
    begins: bool


@dataclass(frozen=True, kw_only=True)
class Request:
    groups: tuple[DeviceGroup, ...]


class Elastic:
    def __init__(
        self,
        store: Store,
        launcher: Launcher,
        *,
        terms: ElasticTerms,
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._launcher = launcher
        self._terms = terms
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._asked: Request | None = None
        self._asked_at = 0.0

    def loop(self) -> Loop[ElasticPool, Rest | Request]:
        return Loop(
            name="elastic",
            interval_seconds=self._interval_seconds,
            load=self.load,
            decide=self.decide,
            apply=self.apply,
            subject=lambda act: act.node_name if isinstance(act, Rest) else "request",
            wakes=("place",),
        )

    def load(self) -> ElasticPool:
        with self._store.read() as tx:
            return read_elastic_pool(tx, self._terms.idle_seconds)

    def decide(self, pool: ElasticPool) -> Sequence[Rest | Request]:
        found: list[Rest | Request] = [Rest(node_name=name, begins=False) for name in choose_done_resting(pool)]
        if self._terms.idle_seconds is not None:
            idle = choose_idle_nodes(pool, timedelta(seconds=self._terms.idle_seconds))
            found += [Rest(node_name=name, begins=True) for name in idle]
        if self._terms.asks:
            request = Request(groups=choose_request(pool))
            if request != self._asked or self._clock() - self._asked_at >= REQUEST_AGAIN_SECONDS:
                found.append(request)
        return found

    def apply(self, act: Rest | Request) -> None:
        if isinstance(act, Request):
            self._launcher.request_devices(act.groups)
            if act != self._asked:
                log.info("asked the cluster for devices", groups=len(act.groups))
            self._asked, self._asked_at = act, self._clock()
            return
        with self._store.write() as tx:
            tx.lock_scheduler()
            if act.begins:
                _put_to_rest(tx, act.node_name)
            else:
                end_rest(tx, act.node_name, why="it left the cluster, or is in use again")


def read_elastic_pool(tx: ReadTx, idle_seconds: float | None) -> ElasticPool:
    """Since when nodes are quiet is read only where it matters."""
    found = devices.list_devices(tx)
    locks, pins = read_claims(tx)
    return ElasticPool(
        devices=found,
        nodes={node.node_name: node for node in nodes.list_nodes(tx)},
        used=frozenset(use.device_id for use in devices.list_uses(tx)),
        claimed=frozenset([lock.device_id for lock in locks] + [pin.device_id for pin in pins]),
        quiet_since={} if idle_seconds is None else _quiet_since(tx, found, timedelta(seconds=idle_seconds)),
        lacks=lacks.list_lacks(tx),
        now=tx.now(),
    )


def _quiet_since(tx: ReadTx, found: Sequence[Device], look_back: timedelta) -> dict[str, datetime]:
    """The last moment at which a device of the node began to take jobs, or an attempt gave one back."""
    since, released = spells.list_open_since(tx), holds.list_newest_releases(tx, tx.now() - look_back)
    quiet: dict[str, datetime] = {}
    for device in found:
        begun = since.get(device.device_id)
        if begun is not None:
            last = released.get(device.node_name, begun)
            quiet[device.node_name] = max(begun, last, quiet.get(device.node_name, begun))
    return quiet


def _put_to_rest(tx: WriteTx, node_name: str) -> None:
    """Not if something was started there, or somebody said something else, since it was decided."""
    on_node = {device.device_id for device in devices.list_devices(tx) if device.node_name == node_name}
    node = nodes.find_node(tx, node_name)
    is_said = node is not None and node.cordoned_at is not None
    if is_said or any(use.device_id in on_node for use in devices.list_uses(tx)):
        return
    nodes.record_node(tx, node_name, cordoned=True, automatic=True)
    audit.append_automatic(tx, "node.rest", node_name, data={"why": "nothing ran there"})
    log.info("node put to rest", node=node_name)


def end_rest(tx: WriteTx, node_name: str, *, why: str) -> None:
    """Let a resting node take jobs again; one that an admin has cordoned meanwhile is let be."""
    node = nodes.find_node(tx, node_name)
    if node is None or not node.is_resting:
        return
    nodes.record_node(tx, node_name, cordoned=False, automatic=True)
    audit.append_automatic(tx, "node.wake", node_name, data={"why": why})
    log.info("node woken", node=node_name, why=why)
