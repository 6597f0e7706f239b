"""The pool: devices, what runs on each, free memory, and the price book."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from api.schemas.wire import Asked, Identified, Wire, find_unix, unix, usd
from orchestrator.domain.pool import DeviceUse, Node, Price
from orchestrator.domain.scheduling.demand import Lack
from orchestrator.domain.scheduling.facts import Rules
from orchestrator.domain.shares import Hold
from orchestrator.services.pool import DeviceClaim, DeviceView, PoolPast


def _is_visible(item: DeviceUse | DeviceClaim | Hold, visible_team_id: str | None) -> bool:
    """Whether the caller may know whose it is; `visible_team_id` is None for an admin, who sees every team."""
    return visible_team_id in {None, item.team_id}


class UseOut(Wire):
    """One attempt's hold on a device. Whose it is shows only to its own team and to admins."""

    attempt_id: str | None
    job_id: str | None
    team_id: str | None
    reserved_bytes: int
    peak_device_bytes: int
    draining: bool
    """The attempt ended, and its processes are not yet proved gone."""

    @classmethod
    def of(cls, use: DeviceUse, visible_team_id: str | None) -> "UseOut":
        visible = _is_visible(use, visible_team_id)
        return cls(
            attempt_id=use.attempt_id if visible else None,
            job_id=use.job_id if visible else None,
            team_id=use.team_id if visible else None,
            reserved_bytes=use.reserved_bytes,
            peak_device_bytes=use.peak_device_bytes,
            draining=use.draining,
        )


class ClaimOut(Wire):
    """What a waiting job has claimed of a device. Whose it is shows only to its own team and to admins."""

    kind: Literal["lock", "pin"]
    """`lock`: bytes that are kept free for the job. `pin`: the job waits for this device; others may use it meanwhile
    only when that does not make the job wait longer."""
    job_id: str | None
    team_id: str | None
    bytes: int
    at: int
    """Until when a lock holds; when a pinned device is expected to be free."""

    @classmethod
    def of(cls, claim: DeviceClaim, visible_team_id: str | None) -> "ClaimOut":
        visible = _is_visible(claim, visible_team_id)
        return cls(
            kind=claim.kind,
            job_id=claim.job_id if visible else None,
            team_id=claim.team_id if visible else None,
            bytes=claim.bytes,
            at=unix(claim.at),
        )


class DeviceOut(Wire):
    id: str
    object: Literal["device"]
    node: str
    device_type: str
    kind: Literal["cpu", "cuda"]
    index: int
    usable_bytes: int
    """What jobs may share."""
    reserved_bytes: int
    free_bytes: int
    online: bool
    seen_at: int
    uses: list[UseOut]
    claims: list[ClaimOut]

    @classmethod
    def of(cls, view: DeviceView, visible_team_id: str | None) -> "DeviceOut":
        device = view.device
        return cls(
            id=device.device_id,
            object="device",
            node=device.node_name,
            device_type=device.device_type,
            kind=device.kind,
            index=device.index,
            usable_bytes=device.usable_bytes,
            reserved_bytes=view.reserved_bytes,
            free_bytes=view.room.free_bytes,
            online=device.online,
            seen_at=unix(device.seen_at),
            uses=[UseOut.of(use, visible_team_id) for use in view.uses],
            claims=[ClaimOut.of(claim, visible_team_id) for claim in view.claims],
        )


class NodeOut(Wire):
    """What was said of a node; nodes that are not listed take jobs."""

    id: str
    object: Literal["node"]
    cordoned_at: int | None
    """Since when it takes nothing new."""
    drain_requested_at: int | None
    """Since when what runs there saves and moves."""
    automatic: bool
    """Said by the pool itself because nothing ran there: the node takes jobs again as soon as one needs it."""

    @classmethod
    def of(cls, node: Node) -> "NodeOut":
        return cls(
            id=node.node_name,
            object="node",
            cordoned_at=find_unix(node.cordoned_at),
            drain_requested_at=find_unix(node.drain_requested_at),
            automatic=node.is_resting,
        )


class LackOut(Wire):
    """Whole devices that waiting jobs would need now, beyond what there is and what will be free within minutes."""

    object: Literal["lack"]
    device_type: str
    usable_bytes: int
    devices: int
    together: int
    """How many of them have to be on one node."""
    jobs: int
    """Waiting jobs that would run on them, of all teams."""

    @classmethod
    def of(cls, lack: Lack) -> "LackOut":
        return cls(
            object="lack",
            device_type=lack.device_type,
            usable_bytes=lack.usable_bytes,
            devices=lack.devices,
            together=lack.together,
            jobs=lack.jobs,
        )


class RulesOut(Wire):
    """What the scheduler's settings say of who goes first and who makes room."""

    placement: str
    preemption: bool
    """Whether jobs may be stopped for others at all."""
    borrower_fairness: bool
    turns_hours: list[float]
    """Device-hours after which a job that borrows has had its turn; empty without turns."""
    turns_spare_larger: bool
    moves: bool
    """Whether smaller jobs move to other devices out of the way of a large one."""
    pin_after_seconds: int
    least_run_seconds: int

    @classmethod
    def of(cls, rules: Rules) -> "RulesOut":
        return cls(
            placement=rules.placement,
            preemption=rules.preemption,
            borrower_fairness=rules.borrower_fairness,
            turns_hours=list(rules.turns_hours),
            turns_spare_larger=rules.turns_spare_larger,
            moves=rules.moves,
            pin_after_seconds=round(rules.pin_after_seconds),
            least_run_seconds=round(rules.least_run_seconds),
        )


class PoolOut(Wire):
    object: Literal["pool"]
    rules: RulesOut
    devices: list[DeviceOut]
    nodes: list[NodeOut]
    """Those that are cordoned or drained."""
    lacks: list[LackOut]
    """Empty while nothing waits for want of devices."""


class HoldOut(Wire):
    """One attempt's hold on a device. Whose it was shows only to its own team and to admins."""

    attempt_id: str | None
    job_id: str | None
    team_id: str | None
    team: str | None
    """The team's name."""
    device_id: str
    device_type: str
    node: str
    reserved_bytes: int
    peak_device_bytes: int
    since: int
    until: int | None
    """Null while it lasts."""

    @classmethod
    def of(cls, hold: Hold, past: PoolPast, visible_team_id: str | None) -> "HoldOut":
        visible = _is_visible(hold, visible_team_id)
        return cls(
            attempt_id=hold.attempt_id if visible else None,
            job_id=hold.job_id if visible else None,
            team_id=hold.team_id if visible else None,
            team=past.team_names.get(hold.team_id) if visible else None,
            device_id=hold.device_id,
            device_type=hold.device_type,
            node=hold.node_name,
            reserved_bytes=hold.reserved_bytes,
            peak_device_bytes=hold.peak_device_bytes,
            since=unix(hold.since_at),
            until=find_unix(hold.until_at),
        )


class PoolHistoryOut(Wire):
    """What held the devices, the longest ago first. It is complete from `since` on, which is later than was asked
    where there was more than one answer holds."""

    object: Literal["pool.history"]
    since: int
    until: int
    data: list[HoldOut]

    @classmethod
    def of(cls, past: PoolPast, visible_team_id: str | None) -> "PoolHistoryOut":
        return cls(
            object="pool.history",
            since=unix(past.since_at),
            until=unix(past.until_at),
            data=[HoldOut.of(hold, past, visible_team_id) for hold in past.holds],
        )


class PriceCreate(Asked):
    """A new price; it holds for attempts that start after it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"device_type": "cpu", "usd_per_hour": "0.10"}]})

    device_type: Annotated[str, Field(min_length=1, max_length=128)]
    """As GET /v1/pool names it; one that the pool does not have yet is taken too."""
    usd_per_hour: Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=6)]
    """For the whole device; a job pays for the share that it reserves."""

    @property
    def usd_micros_per_hour(self) -> int:
        return int(self.usd_per_hour * 1_000_000)


class PriceOut(Identified):
    object: Literal["price"]
    device_type: str
    version: int
    usd_micros_per_hour: int
    usd_per_hour: str
    created_at: int

    @classmethod
    def of(cls, price: Price) -> "PriceOut":
        return cls(
            id=f"{price.device_type}@{price.version}",
            object="price",
            device_type=price.device_type,
            version=price.version,
            usd_micros_per_hour=price.usd_micros_per_hour,
            usd_per_hour=usd(price.usd_micros_per_hour),
            created_at=unix(price.created_at),
        )
