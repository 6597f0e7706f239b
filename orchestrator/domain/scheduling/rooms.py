"""The devices of the pool with their free bytes, as placement sees and changes them.

Free bytes are whole numbers of bytes and already exclude what runs, what is held and what is locked to somebody.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.domain.placement import DeviceKind
from orchestrator.domain.scheduling.device_index import Bin, BinKey, Bins
from orchestrator.domain.scheduling.facts import SharedDevice

NOT_OFFERED = -1


@dataclass(kw_only=True, slots=True, eq=False)
class NodeRoom:
    """One machine. `free_bytes` is the sum over its devices: it says how full the node is, never what fits."""

    name: str
    devices: list["DeviceRoom"] = field(default_factory=list)
    shelves: dict[str, "Shelf"] = field(default_factory=dict)
    free_bytes: int = 0


@dataclass(kw_only=True, slots=True, eq=False)
class DeviceRoom:
    """`is_open` is False for a device that is offered to nobody by default: not schedulable, or pinned by somebody."""

    device_id: str
    node: NodeRoom
    device_type: str
    kind: DeviceKind
    usable_bytes: int
    weight_micros: int
    free_bytes: int
    bin: Bin["DeviceRoom"]
    is_open: bool = True

    @property
    def fullness(self) -> tuple[int, str]:
        return self.node.free_bytes, self.device_id


@dataclass(kw_only=True, slots=True, eq=False)
class Shelf:
    """The devices of one type on one node: what a gang is placed on. `filed` is its place in the bins by gang size."""

    node: NodeRoom
    device_type: str
    kind: DeviceKind
    devices: list[DeviceRoom] = field(default_factory=list)
    filed: dict[int, tuple[BinKey, int]] = field(default_factory=dict)

    @property
    def fullness(self) -> tuple[int, str]:
        return self.node.free_bytes, self.node.name

    @property
    def key(self) -> BinKey:
        return max(room.usable_bytes for room in self.devices), self.device_type, self.kind

    def kth_free(self, count: int) -> int:
        """The free bytes of the open device that is `count`-th from the emptiest; NOT_OFFERED without so many."""
        frees = sorted((room.free_bytes for room in self.devices if room.is_open), reverse=True)
        return frees[count - 1] if len(frees) >= count else NOT_OFFERED


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
        return self.needs_in((room.usable_bytes, room.device_type, room.kind))

    def needs_in(self, key: BinKey) -> int | None:
        """The same for any device of a bin."""
        usable, device_type, kind = key
        needed = self.bytes_by_kind.get(kind)
        if (
            needed is None
            or needed > usable
            or (self.device_types is not None and device_type not in self.device_types)
        ):
            return None
        return usable if self.exclusive else needed

    def fits(self, room: DeviceRoom) -> bool:
        """Whether one replica fits this device now."""
        needed = self.needs_on(room)
        if needed is None or needed > self.free_on(room):
            return False
        return self.allows_node is None or self.allows_node(room.node.name)


class Rooms:
    """All devices by id and by node. Changes go through `take`, `give` and `open`, which keep the bins true."""

    def __init__(self, devices: Iterable[SharedDevice] = ()) -> None:
        self.devices: dict[str, DeviceRoom] = {}
        self.nodes: dict[str, NodeRoom] = {}
        self.bins: Bins[DeviceRoom] = Bins()
        self.shelves: list[Shelf] = []
        self.by_key: dict[BinKey, list[DeviceRoom]] = {}
        self._shelf_bins: dict[int, Bins[Shelf]] = {}
        self._moved: dict[Shelf, None] = {}
        for device in sorted(devices, key=lambda device: device.device_id):
            self._add(device)
        for room in self.devices.values():
            if room.is_open:
                room.bin.put(room.free_bytes, room)

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
            bin=self.bins.bin_of((device.usable_bytes, device.device_type, device.kind)),
            is_open=device.schedulable,
        )
        self.devices[device.device_id] = room
        self.by_key.setdefault((room.usable_bytes, room.device_type, room.kind), []).append(room)
        node.devices.append(room)
        node.free_bytes += room.free_bytes
        shelf = node.shelves.get(room.device_type)
        if shelf is None:
            shelf = node.shelves[room.device_type] = Shelf(node=node, device_type=room.device_type, kind=room.kind)
            self.shelves.append(shelf)
        shelf.devices.append(room)

    def take(self, device_id: str, size_bytes: int) -> None:
        """Remove bytes from what is free. A device may go below nothing when it shrank under what runs on it."""
        room = self.devices[device_id]
        node = room.node
        if room.is_open:
            room.bin.drop(room.free_bytes, device_id)
        room.free_bytes -= size_bytes
        node.free_bytes -= size_bytes
        if room.is_open:
            room.bin.put(room.free_bytes, room)
        for sibling in node.devices:
            if sibling.is_open and sibling is not room:
                sibling.bin.ties[sibling.free_bytes].touch(sibling)
        self._note(room)

    def give(self, device_id: str, size_bytes: int) -> None:
        """Return bytes to what is free."""
        self.take(device_id, -size_bytes)

    def open(self, device_id: str, *, is_open: bool) -> None:
        """Offer the device to everybody, or to nobody but those with an offer of their own."""
        room = self.devices[device_id]
        if room.is_open == is_open:
            return
        if is_open:
            room.bin.put(room.free_bytes, room)
        else:
            room.bin.drop(room.free_bytes, device_id)
        room.is_open = is_open
        self._note(room)

    def fitting(self, ask: Ask) -> Iterable[DeviceRoom]:
        """Every device on which one replica of `ask` fits now, by device id. Looks at all devices."""
        return (room for room in self.devices.values() if ask.fits(room))

    def most_free(self, replicas: int) -> dict[BinKey, int]:
        """By bin, the most bytes that so many open devices of one node have free."""
        bins: Bins[DeviceRoom] | Bins[Shelf] = self.bins if replicas == 1 else self.gang_bins(replicas)
        return {key: each.most for key, each in bins.bins.items()}

    def gang_bins(self, replicas: int) -> Bins[Shelf]:
        """Shelves by the free bytes of their `replicas`-th emptiest device."""
        if replicas not in self._shelf_bins:
            self._shelf_bins[replicas] = Bins()
            self._moved.update(dict.fromkeys(self.shelves))
        for shelf in self._moved:
            self._refile(shelf)
        self._moved.clear()
        return self._shelf_bins[replicas]

    def _note(self, room: DeviceRoom) -> None:
        if self._shelf_bins:
            for shelf in room.node.shelves.values():
                self._moved[shelf] = None

    def _refile(self, shelf: Shelf) -> None:
        for replicas, bins in self._shelf_bins.items():
            filed = shelf.filed.pop(replicas, None)
            if filed is not None:
                bins.bins[filed[0]].drop(filed[1], shelf.node.name)
            free = shelf.kth_free(replicas)
            if free > 0:
                shelf.filed[replicas] = (shelf.key, free)
                bins.bin_of(shelf.key).put(free, shelf)
