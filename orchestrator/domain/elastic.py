"""A pool that grows and shrinks: which nodes to put to rest or to give back, and which devices to ask the cluster for.

Pure. Devices that jobs wait for are found by the scheduler's decision (`domain.scheduling.demand`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.domain.pool import Device, Node
from orchestrator.domain.scheduling.demand import Lack


@dataclass(frozen=True, kw_only=True)
class ElasticPool:
    """The pool at one moment. `used` are the ids of devices that hold an attempt, `claimed` of those that a waiting job
    has locked or pinned; `quiet_since` is since when each node has been there, taking jobs, with nothing on it."""

    devices: Sequence[Device]
    nodes: Mapping[str, Node]
    used: frozenset[str]
    claimed: frozenset[str]
    quiet_since: Mapping[str, datetime]
    lacks: Sequence[Lack]
    now: datetime

    def online_on(self, node_name: str) -> list[Device]:
        return [device for device in self.devices if device.online and device.node_name == node_name]


@dataclass(frozen=True, kw_only=True)
class DeviceGroup:
    """Whole devices of one node, by their index there and their bytes."""

    device_type: str
    bytes_by_index: Mapping[int, int]


def choose_idle_nodes(pool: ElasticPool, idle_after: timedelta) -> list[str]:
    """Nodes to put to rest: nothing has run there for that long, no waiting job has a claim there or lacks devices of
    the kind, and nobody has said anything else about them."""
    lacking = {(lack.device_type, lack.usable_bytes) for lack in pool.lacks}
    found = []
    for name in sorted(pool.quiet_since):
        devices, node = pool.online_on(name), pool.nodes.get(name)
        since = pool.quiet_since[name]
        if node is not None:
            since = max(since, node.changed_at or since)
        is_said = node is not None and node.cordoned_at is not None
        needed = any(
            device.device_id in pool.used | pool.claimed or (device.device_type, device.usable_bytes) in lacking
            for device in devices
        )
        if devices and not is_said and not needed and pool.now - since >= idle_after:
            found.append(name)
    return found


def choose_done_resting(pool: ElasticPool) -> list[str]:
    """Resting nodes whose rest is over without anybody's asking: they left the cluster, so that they are new when they
    come again, or something was started there at the last moment."""
    found = []
    for name in sorted(name for name, node in pool.nodes.items() if node.is_resting):
        devices = pool.online_on(name)
        if not devices or any(device.device_id in pool.used for device in devices):
            found.append(name)
    return found


def choose_request(pool: ElasticPool) -> tuple[DeviceGroup, ...]:
    """The whole devices that the cluster should have: what is lacking, what is in use, and what there is of the types
    that are lacking, because a request counts what is there already. Empty when nothing is lacking."""
    if not pool.lacks:
        return ()
    types = {lack.device_type for lack in pool.lacks}
    there = [
        DeviceGroup(device_type=device.device_type, bytes_by_index={device.index: device.usable_bytes})
        for device in pool.devices
        if device.online and (device.device_id in pool.used or device.device_type in types)
    ]
    return (*there, *(group for lack in pool.lacks for group in _groups(pool, lack)))


def _groups(pool: ElasticPool, lack: Lack) -> Iterator[DeviceGroup]:
    """Of different indexes as long as a node has any: devices of one index are never on one node, so four of them are
    four nodes, where one with four devices would do."""
    indexes = _indexes_on_a_node(pool, lack)
    slots = len(indexes) // lack.together
    for number in range(lack.groups):
        first = number % slots * lack.together
        chosen = indexes[first : first + lack.together]
        yield DeviceGroup(device_type=lack.device_type, bytes_by_index=dict.fromkeys(chosen, lack.usable_bytes))


def _indexes_on_a_node(pool: ElasticPool, lack: Lack) -> list[int]:
    """Those of the node that has had the most devices of the kind; as many as belong together at least."""
    by_node: dict[str, list[int]] = {}
    for device in pool.devices:
        if (device.device_type, device.usable_bytes) == (lack.device_type, lack.usable_bytes):
            by_node.setdefault(device.node_name, []).append(device.index)
    most = max(by_node.values(), key=lambda found: (len(found), sorted(found)), default=[])
    return sorted(most) if len(most) >= lack.together else list(range(lack.together))
