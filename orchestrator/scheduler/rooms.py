"""Devices as placement sees them.

Invariant: an attempt counts against its device until its processes are proved gone, whether or not it has ended.
"""

from collections.abc import Iterable
from dataclasses import replace

from orchestrator.domain.placement import DeviceRoom
from orchestrator.domain.pool import Device, DeviceUse
from orchestrator.store import devices
from orchestrator.store.session import ReadTx


def read_rooms(tx: ReadTx) -> list[DeviceRoom]:
    return rooms_of(devices.list_devices(tx), devices.list_uses(tx))


def rooms_of(all_devices: Iterable[Device], uses: Iterable[DeviceUse]) -> list[DeviceRoom]:
    """What each device has left. An ended attempt whose processes are not proved gone still counts."""
    rooms = {
        device.device_id: DeviceRoom(
            device_id=device.device_id,
            device_type=device.device_type,
            kind=device.kind,
            total_bytes=device.usable_bytes,
            free_bytes=device.usable_bytes,
            schedulable=device.online,
        )
        for device in all_devices
    }
    for use in uses:
        room = rooms.get(use.device_id)
        if room is not None:
            rooms[use.device_id] = replace(room, free_bytes=room.free_bytes - use.reserved_bytes)
    return list(rooms.values())
