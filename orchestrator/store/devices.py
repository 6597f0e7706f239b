"""The pool's devices and what holds them. A device is held until its attempt's processes are proved gone."""

from collections.abc import Iterable
from typing import Literal, Protocol

from sqlalchemy import RowMapping, select, update

from orchestrator.domain.pool import Device, DeviceUse
from orchestrator.domain.speed import DeviceSpeed
from orchestrator.domain.states import FINAL_ATTEMPT_STATES, AttemptState
from orchestrator.store.holds import read_devices
from orchestrator.store.nodes import list_nodes
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.spells import record_spells
from orchestrator.store.tables.attempts import attempts
from orchestrator.store.tables.pool import devices


class Declared(Protocol):
    """What a launcher says of a device that is there now."""

    @property
    def device_id(self) -> str: ...
    @property
    def node_name(self) -> str: ...
    @property
    def device_type(self) -> str: ...
    @property
    def kind(self) -> Literal["cpu", "cuda"]: ...
    @property
    def index(self) -> int: ...
    @property
    def total_bytes(self) -> int: ...


def record_devices(tx: WriteTx, declared: Iterable[Declared]) -> None:
    """Take over a survey: what it names is online, everything else is not. Spells of those that take jobs, or would
    as soon as one needs them, go on."""
    now = tx.now()
    seen = {device.device_id: device for device in declared}
    tx.execute(
        update(devices).where(devices.c.online.is_(True), devices.c.device_id.not_in(sorted(seen))).values(online=False)
    )
    for device in seen.values():
        values = {
            "node_name": device.node_name,
            "device_type": device.device_type,
            "kind": device.kind,
            "device_index": device.index,
            "usable_bytes": device.total_bytes,
            "online": True,
            "seen_at": now,
        }
        statement = tx.insert(devices).values(device_id=device.device_id, **values)
        tx.execute(statement.on_conflict_do_update(index_elements=["device_id"], set_=values))
    kept = {node.node_name for node in list_nodes(tx) if node.cordoned_at is not None and not node.is_resting}
    record_spells(tx, {key: device.device_type for key, device in seen.items() if device.node_name not in kept})


def list_devices(tx: ReadTx) -> list[Device]:
    """Every device that was ever seen, by id."""
    return [_device(row) for row in tx.rows(select(devices).order_by(devices.c.device_id))]


def record_speed(tx: WriteTx, device_id: str, speed: DeviceSpeed) -> None:
    """What was measured on the device; it stays through all surveys."""
    tx.execute(update(devices).where(devices.c.device_id == device_id).values(speed=speed.model_dump()))


def list_uses(tx: ReadTx) -> list[DeviceUse]:
    """Every hold on a device, of all teams."""
    query = select(attempts).where(attempts.c.released_at.is_(None)).order_by(attempts.c.created_at)
    uses = [use for row in tx.rows(query) for use in _uses(row)]
    return sorted(uses, key=lambda use: use.device_id)


def _uses(row: RowMapping) -> list[DeviceUse]:
    """Of one attempt, on each of its devices."""
    return [
        DeviceUse(
            device_id=device.device_id,
            attempt_id=row["attempt_id"],
            job_id=row["job_id"],
            team_id=row["team_id"],
            reserved_bytes=device.rate.reserved_bytes,
            peak_device_bytes=row["peak_device_bytes"],
            draining=AttemptState(row["state"]) in FINAL_ATTEMPT_STATES,
            preempted_for=row["preempted_for"],
        )
        for device in read_devices(row)
    ]


def _device(row: RowMapping) -> Device:
    return Device(
        device_id=row["device_id"],
        node_name=row["node_name"],
        device_type=row["device_type"],
        kind=row["kind"],
        index=row["device_index"],
        usable_bytes=row["usable_bytes"],
        online=row["online"],
        seen_at=row["seen_at"],
        speed=None if row["speed"] is None else DeviceSpeed.model_validate(row["speed"]),
    )
