"""Which of the devices that fit are taken. One policy is one class behind `PlacementPolicy`, chosen by its name.

Every policy is handed the same rooms and obeys the same walls: an `Ask` says what fits where. Pinned devices never
reach it, unless the job may use them and fits nowhere else. Gangs get all their devices or none, of one device type,
since the slowest replica sets the pace, and on one node where possible.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from orchestrator.domain.scheduling.device_index import Ties
from orchestrator.domain.scheduling.placement_options import BestFit, FirstFit, Fragmentation, RandomDevice, Spread
from orchestrator.domain.scheduling.rooms import Ask, DeviceRoom, Rooms, Shelf


class PlacementPolicy(Protocol):
    """Chooses devices; it changes nothing. The same rooms and the same ask give the same devices."""

    def choose(self, rooms: Rooms, ask: Ask) -> tuple[str, ...] | None:
        """The ids of `ask.replicas` distinct devices that hold one replica each now, or None."""
        ...


class SmallestSufficient:
    """Smallest sufficient device, tightest hole, a node that holds the base model, fullest node, id.

    Large devices stay free for large jobs. A gang goes by the node: the one whose last device for it is tightest.
    Measured against best fit, fragmentation gradient and spreading in the scheduling study, 1.5 to 1.7.
    """

    def choose(self, rooms: Rooms, ask: Ask) -> tuple[str, ...] | None:
        if ask.replicas == 1:
            best = choose_device(rooms, ask)
            return None if best is None else (best.device_id,)
        return choose_gang(rooms, ask)


def device_key(room: DeviceRoom, ask: Ask) -> tuple[int, int, bool, int, str]:
    """The order of devices for one replica, best first."""
    is_cold = room.node.name not in ask.warm_nodes
    return room.usable_bytes, ask.free_on(room), is_cold, room.node.free_bytes, room.device_id


def choose_device(rooms: Rooms, ask: Ask) -> DeviceRoom | None:
    """The best device for one replica."""
    if not ask.offers:
        return _best_open(rooms, ask)
    offered = [rooms.devices[device_id] for device_id in ask.offers if device_id in rooms.devices]
    best = _best_open(rooms, ask)
    if best is not None and best.device_id in ask.offers:
        return min(rooms.fitting(ask), key=lambda room: device_key(room, ask))
    found = [room for room in offered if ask.fits(room)] + ([] if best is None else [best])
    return min(found, key=lambda room: device_key(room, ask), default=None)


def _best_open(rooms: Rooms, ask: Ask) -> DeviceRoom | None:
    """The best of the devices that are open to everybody."""
    best: DeviceRoom | None = None
    for (usable, _, _), needed, each in rooms.bins.by_size(ask.needs_in):
        if best is not None and usable > best.usable_bytes:
            return best
        for ties in each.from_tightest(needed):
            room = _best_of_ties(ties, ask)
            if room is not None:
                if best is None or device_key(room, ask) < device_key(best, ask):
                    best = room
                break
    return best


def _best_of_ties(ties: Ties[DeviceRoom], ask: Ask) -> DeviceRoom | None:
    if not ask.warm_nodes and ask.allows_node is None:
        return ties.best()
    return min(
        (room for room in ties.live.values() if ask.allows_node is None or ask.allows_node(room.node.name)),
        key=lambda room: (room.node.name not in ask.warm_nodes, *room.fullness),
        default=None,
    )


def choose_gang(rooms: Rooms, ask: Ask) -> tuple[str, ...] | None:
    """The devices of a gang: the best node that holds all of it, else (unless `same_node`) as few nodes as possible."""
    choices = (choice for shelf in _promising_shelves(rooms, ask) if (choice := _on_shelf(shelf, ask)))
    best = min(choices, key=lambda choice: choice[0], default=None)
    if best is not None:
        return tuple(room.device_id for room in best[1])
    return None if ask.same_node else _spread_gang(rooms, ask)


def _promising_shelves(rooms: Rooms, ask: Ask) -> Iterator[Shelf]:
    """The shelves among which the best is: the tightest ones, and those with devices that count otherwise."""
    if ask.allows_node is not None:
        yield from rooms.shelves
        return
    for device_id in ask.offers:
        room = rooms.devices.get(device_id)
        if room is not None:
            yield room.node.shelves[room.device_type]
    least: int | None = None
    for key, _, each in rooms.gang_bins(ask.replicas).by_size(ask.needs_in):
        if least is not None and key[0] > least:
            return
        for ties in each.from_tightest(ask.bytes_by_kind[key[2]]):
            shelves = list(ties.live.values()) if ask.warm_nodes or ask.exclusive else [ties.best()]
            holding = [shelf for shelf in shelves if not ask.exclusive or _on_shelf(shelf, ask)]
            yield from holding
            if holding:
                least = key[0]
                break


_ShelfKey = tuple[int, int, bool, int, str]


def _on_shelf(shelf: Shelf, ask: Ask) -> tuple[_ShelfKey, list[DeviceRoom]] | None:
    """The tightest devices of this shelf that hold the gang, with the shelf's place in the order."""
    fitting = [room for room in shelf.devices if ask.fits(room)]
    if len(fitting) < ask.replicas:
        return None
    kth_free = sorted((ask.free_on(room) for room in fitting), reverse=True)[ask.replicas - 1]
    is_cold = shelf.node.name not in ask.warm_nodes
    key = (shelf.key[0], kth_free, is_cold, shelf.node.free_bytes, shelf.node.name)
    return key, sorted(fitting, key=lambda room: device_key(room, ask))[: ask.replicas]


def _spread_gang(rooms: Rooms, ask: Ask) -> tuple[str, ...] | None:
    """Over several nodes, those with most room for it first; the smallest device type that has enough."""
    by_type: dict[str, dict[str, list[DeviceRoom]]] = {}
    for room in _all_fitting(rooms, ask):
        by_type.setdefault(room.device_type, {}).setdefault(room.node.name, []).append(room)
    choices: list[list[DeviceRoom]] = []
    for by_node in by_type.values():
        if sum(map(len, by_node.values())) < ask.replicas:
            continue
        shelves = [sorted(shelf, key=lambda room: device_key(room, ask)) for shelf in by_node.values()]
        shelves.sort(key=lambda shelf: (-len(shelf), device_key(shelf[0], ask)))
        choices.append([room for shelf in shelves for room in shelf][: ask.replicas])
    best = min(choices, key=lambda chosen: max(device_key(room, ask) for room in chosen), default=None)
    return None if best is None else tuple(room.device_id for room in best)


def _all_fitting(rooms: Rooms, ask: Ask) -> Iterable[DeviceRoom]:
    """All devices that fit, in no particular order; those open to everybody from the bins."""
    if ask.offers or ask.allows_node is not None:
        return rooms.fitting(ask)
    return (
        room
        for _, needed, each in rooms.bins.by_size(ask.needs_in)
        for ties in each.from_tightest(needed)
        for room in ties.live.values()
    )


POLICIES: Mapping[str, Callable[[], PlacementPolicy]] = {
    "default": SmallestSufficient,
    "fgd": Fragmentation,
    "best_fit": BestFit,
    "first_fit": FirstFit,
    "random": RandomDevice,
    "spread": Spread,
}
"""By the name in `Rules.placement`. A planner may also be given a policy of its own."""


def get_policy(name: str) -> PlacementPolicy:
    """The policy of that name. Raises KeyError for an unknown one."""
    return POLICIES[name]()
