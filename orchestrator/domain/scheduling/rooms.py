"""The devices of the pool with their free bytes, as placement sees and changes them.

Free bytes are whole numbers of bytes and already exclude what runs, what is held and what is locked to somebody.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.domain.placement import DeviceKind
from orchestrator.domain.scheduling.facts import SharedDevice

NOT_OFFERED = -1


@dataclass(kw_only=True, slots=True)
class NodeRoom:
    """One machine. `free_bytes` is the sum over its devices: it says how full the node is, never what fits."""

    name: str
    devices: list["DeviceRoom"] = field(default_factory=list)
    free_bytes: int = 0


@dataclass(kw_only=True, slots=True)
class DeviceRoom:
    """`is_open` is False for a device that is offered to nobody by default: not schedulable, or pinned by somebody."""

    device_id: str
    node: NodeRoom
    device_type: str
    kind: DeviceKind
    usable_bytes: int
    weight_micros: int
    free_bytes: int
    is_open: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """Room for one job: `replicas` distinct devices, each with the bytes for its kind, or all of it with `exclusive`.

    `offers` are bytes on top of what is free, below nothing for less, on devices that count otherwise for this job than
    for everybody: those pinned or locked to it, and pinned devices that it may use. A device named there is open to it.
    `allows_node` vetoes nodes for reasons outside of memory.
    """

    bytes_by_kind: Mapping[str, int]
    replicas: int = 1
    same_node: bool = True
    exclusive: bool = False
    device_types: frozenset[str] | None = None
    warm_nodes: frozenset[str] = frozenset()
    offers: Mapping[str, int] = field(default_factory=dict)
    allows_node: Callable[[str], bool] | None = None

    def free_on(self, room: DeviceRoom) -> int:
        """The bytes of the device that this job may use now; NOT_OFFERED when it may not be used at all."""
        if self.offers and (offered := self.offers.get(room.device_id)) is not None:
            return room.free_bytes + offered
        return room.free_bytes if room.is_open else NOT_OFFERED

    def needs_on(self, room: DeviceRoom) -> int | None:
        """The bytes that one replica reserves on this device; None where its kind or type rules it out."""
        needed = self.bytes_by_kind.get(room.kind)
        if needed is None or (self.device_types is not None and room.device_type not in self.device_types):
            return None
        if needed > room.usable_bytes:
            return None
        return room.usable_bytes if self.exclusive else needed

    def fits(self, room: DeviceRoom) -> bool:
        """Whether one replica fits this device now."""
        needed = self.needs_on(room)
        if needed is None or needed > self.free_on(room):
            return False
        return self.allows_node is None or self.allows_node(room.node.name)


class Rooms:
    """All devices by id and by node. Changes go through `take` and `give`, so that what is derived stays true."""

    def __init__(self, devices: Iterable[SharedDevice] = ()) -> None:
        self.devices: dict[str, DeviceRoom] = {}
        self.nodes: dict[str, NodeRoom] = {}
        for device in sorted(devices, key=lambda device: device.device_id):
            self._add(device)

    def _add(self, device: SharedDevice) -> None:
        node = self.nodes.setdefault(device.node_name, NodeRoom(name=device.node_name))
        room = DeviceRoom(
            device_id=device.device_id,
            node=node,
            device_type=device.device_type,
            kind=device.kind,
            usable_bytes=device.usable_bytes,
            weight_micros=device.weight_micros,
            free_bytes=device.usable_bytes - device.held_bytes,
            is_open=device.schedulable,
        )
        self.devices[device.device_id] = room
        node.devices.append(room)
        node.free_bytes += room.free_bytes

    def take(self, device_id: str, size_bytes: int) -> None:
        """Remove bytes from what is free. A device may go below nothing when it shrank under what runs on it."""
        room = self.devices[device_id]
        room.free_bytes -= size_bytes
        room.node.free_bytes -= size_bytes

    def give(self, device_id: str, size_bytes: int) -> None:
        """Return bytes to what is free."""
        self.take(device_id, -size_bytes)

    def open(self, device_id: str, *, is_open: bool) -> None:
        """Offer the device to everybody, or to nobody but those with an offer of their own."""
        self.devices[device_id].is_open = is_open

    def fitting(self, ask: Ask) -> Iterable[DeviceRoom]:
        """Every device on which one replica of `ask` fits now, by device id. Looks at all devices."""
        return (room for room in self.devices.values() if ask.fits(room))
