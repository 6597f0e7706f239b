"""The pool: devices, what holds them, and the price book."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Literal

from orchestrator.domain.errors import InvalidRequestError, NotFoundError
from orchestrator.domain.placement import DeviceRoom
from orchestrator.domain.pool import Device, DeviceUse, Node, Price
from orchestrator.domain.scheduling.demand import Lack
from orchestrator.domain.scheduling.facts import Lock, Pin, Rules
from orchestrator.domain.shares import Hold
from orchestrator.domain.teams import Caller
from orchestrator.services.teams import require_admin
from orchestrator.store import audit, devices, lacks, nodes, prices, queue, teams
from orchestrator.store.holds import list_holds
from orchestrator.store.scheduling import read_claims
from orchestrator.store.session import ReadTx, Store

MOST_HOLDS = 5000
"""Of one answer about the past."""


@dataclass(frozen=True, kw_only=True)
class DeviceClaim:
    """What a waiting job has of a device that it does not hold yet: `lock`, bytes kept free for it until `at`; `pin`,
    the device that it will get first, expected at `at`."""

    kind: Literal["lock", "pin"]
    job_id: str
    team_id: str
    bytes: int
    at: datetime


@dataclass(frozen=True, kw_only=True)
class DeviceView:
    """A device and what holds it now, attempts that ended but are not proved gone too."""

    device: Device
    uses: tuple[DeviceUse, ...]
    claims: tuple[DeviceClaim, ...] = ()

    @property
    def reserved_bytes(self) -> int:
        return sum(use.reserved_bytes for use in self.uses)

    @property
    def room(self) -> DeviceRoom:
        """The device as placement sees it."""
        return DeviceRoom(
            device_id=self.device.device_id,
            device_type=self.device.device_type,
            kind=self.device.kind,
            total_bytes=self.device.usable_bytes,
            free_bytes=max(0, self.device.usable_bytes - self.reserved_bytes),
            schedulable=self.device.online,
        )


def read_pool(tx: ReadTx) -> tuple[DeviceView, ...]:
    """Every device with its uses, by id."""
    by_device: dict[str, list[DeviceUse]] = {}
    for use in devices.list_uses(tx):
        by_device.setdefault(use.device_id, []).append(use)
    return tuple(
        DeviceView(device=device, uses=tuple(by_device.get(device.device_id, ())))
        for device in devices.list_devices(tx)
    )


def _read_device_claims(tx: ReadTx) -> Mapping[str, tuple[DeviceClaim, ...]]:
    """What waiting jobs have claimed, by device."""
    locks, pins = read_claims(tx)
    job_ids = {lock.job_id for lock in locks} | {pin.job_id for pin in pins}
    owners = {job.job_id: job.team_id for job in queue.list_jobs_of(tx, sorted(job_ids))} if job_ids else {}
    found: dict[str, list[DeviceClaim]] = {}

    def add(kind: Literal["lock", "pin"], claim: Lock | Pin, at: float) -> None:
        made = DeviceClaim(
            kind=kind,
            job_id=claim.job_id,
            team_id=owners[claim.job_id],
            bytes=claim.bytes,
            at=datetime.fromtimestamp(at, UTC),
        )
        found.setdefault(claim.device_id, []).append(made)

    for lock in locks:
        add("lock", lock, lock.until_at)
    for pin in pins:
        add("pin", pin, pin.at)
    return {device_id: tuple(claims) for device_id, claims in found.items()}


@dataclass(frozen=True, kw_only=True)
class PoolPast:
    """Holds that lasted within the period. `since_at` is later than was asked where there were too many holds: what is
    told is complete. `team_names` by id."""

    since_at: datetime
    until_at: datetime
    holds: tuple[Hold, ...]
    team_names: Mapping[str, str]


class NodeWish(StrEnum):
    CORDON = "cordon"
    DRAIN = "drain"
    UNCORDON = "uncordon"


@dataclass(frozen=True)
class Pool:
    """`rules` are those that the scheduler decides by."""

    store: Store
    rules: Rules = field(default_factory=Rules)

    def list(self, caller: Caller) -> tuple[DeviceView, ...]:
        """Every device. Whose a use is, the API shows to the owner and to admins only."""
        with self.store.read() as tx:
            claims = _read_device_claims(tx)
            return tuple(replace(view, claims=claims.get(view.device.device_id, ())) for view in read_pool(tx))

    def history(self, caller: Caller, *, hours: int) -> PoolPast:
        """What held devices in the last hours, the longest ago first; at most MOST_HOLDS attempts that have ended.
        Whose a hold was, the API shows to the owner and to admins only."""
        with self.store.read() as tx:
            until = tx.now()
            since = until - timedelta(hours=hours)
            holds, complete_since = list_holds(tx, since, limit=MOST_HOLDS)
            names = {team.team_id: team.name for team in teams.list_teams(tx)}
        shown = sorted(holds, key=lambda hold: (hold.since_at, hold.attempt_id))
        return PoolPast(since_at=complete_since, until_at=until, holds=tuple(shown), team_names=names)

    def nodes(self, caller: Caller) -> tuple[Node, ...]:
        """Nodes that take nothing new, because an admin, or the pool itself, said so."""
        with self.store.read() as tx:
            return tuple(node for node in nodes.list_nodes(tx) if node.cordoned_at is not None)

    def lacks(self, caller: Caller) -> tuple[Lack, ...]:
        """The devices that waiting jobs of all teams would need beyond those that there are."""
        with self.store.read() as tx:
            return tuple(lacks.list_lacks(tx))

    def set_node(self, caller: Caller, node_name: str, wish: NodeWish) -> Node:
        """Let a node take jobs again, nothing new, or nothing at all: then what runs there saves and moves.

        Admins only. Raises NotFoundError for a node that has never been in the pool.
        """
        require_admin(caller)
        with self.store.write() as tx:
            if node_name not in {device.node_name for device in devices.list_devices(tx)}:
                raise NotFoundError(f"No node of the pool is named {node_name!r}.")
            audit.append_entry(tx, caller, f"node.{wish.value}", node_name)
            return nodes.record_node(
                tx, node_name, cordoned=wish is not NodeWish.UNCORDON, draining=wish is NodeWish.DRAIN
            )

    def list_prices(self, caller: Caller) -> tuple[Price, ...]:
        """The price book, all versions, the newest of each device type first."""
        with self.store.read() as tx:
            return tuple(prices.list_prices(tx))

    def set_price(self, caller: Caller, *, device_type: str, usd_micros_per_hour: int) -> Price:
        """Append a version; attempts that are placed from now on are billed by it."""
        require_admin(caller)
        if usd_micros_per_hour < 0:
            raise InvalidRequestError("a price cannot be negative", param="usd_per_hour")
        with self.store.write() as tx:
            said = {"usd_micros_per_hour": usd_micros_per_hour}
            audit.append_entry(tx, caller, "price.set", device_type, data=said)
            return prices.insert_price(tx, device_type, usd_micros_per_hour)
