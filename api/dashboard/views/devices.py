"""Devices to scale: what jobs have reserved on each and what they were seen to use."""

from collections.abc import Sequence
from dataclasses import dataclass

from api.dashboard.formats import say_bytes
from api.dashboard.views.bars import WIDTH, scale
from api.schemas.pool import DeviceOut, UseOut
from orchestrator.domain.teams import Caller
from orchestrator.services.pool import DeviceView

LOOKS = 6
"""Colours that blocks take in turn."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A job's hold on a device. `measured_width` is the part of the block that was seen in use."""

    use: UseOut
    look: str
    x: float
    width: float
    measured_width: float
    title: str


@dataclass(frozen=True, kw_only=True)
class DeviceBar:
    """`width` is the device's own, of the largest device of the pool, in the same units."""

    device: DeviceOut
    blocks: tuple[Block, ...]
    width: float


def show_devices(caller: Caller, views: Sequence[DeviceView]) -> list[DeviceBar]:
    largest = max((view.device.usable_bytes for view in views), default=0)
    devices = [DeviceOut.of(view, caller.visible_team_id) for view in views]
    return [
        DeviceBar(device=device, blocks=_blocks(device), width=scale(device.usable_bytes, largest))
        for device in devices
    ]


def _blocks(device: DeviceOut) -> tuple[Block, ...]:
    blocks: list[Block] = []
    x = 0.0
    for number, use in enumerate(device.uses):
        width = min(scale(use.reserved_bytes, device.usable_bytes), WIDTH - x)
        measured = scale(min(use.peak_device_bytes, use.reserved_bytes), device.usable_bytes)
        look = "other" if use.job_id is None else f"hue-{number % LOOKS}"
        blocks.append(
            Block(use=use, look=look, x=round(x, 2), width=width, measured_width=min(measured, width), title=_say(use))
        )
        x += width
    return tuple(blocks)


def _say(use: UseOut) -> str:
    who = use.job_id or "another team's job"
    state = ", being cleared" if use.draining else ""
    return f"{who}: {say_bytes(use.reserved_bytes)} reserved, peak {say_bytes(use.peak_device_bytes)}{state}"
