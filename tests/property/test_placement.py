"""A law of choosing a device for one job."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.placement import (
    DeviceRoom,
    WaitingJob,
    choose_device,
    could_ever_fit,
    fits,
)

TYPES = {"cpu": "cpu", "rtx": "cuda", "h100": "cuda"}


@st.composite
def rooms(draw: st.DrawFn) -> list[DeviceRoom]:
    found = []
    for number in range(draw(st.integers(0, 6))):
        device_type = draw(st.sampled_from(sorted(TYPES)))
        total = draw(st.integers(1, 80))
        found.append(
            DeviceRoom(
                device_id=f"node/{number}",
                device_type=device_type,
                kind="cpu" if device_type == "cpu" else "cuda",
                total_bytes=total,
                free_bytes=draw(st.integers(0, total)),
                schedulable=draw(st.booleans()),
            )
        )
    return found


waiting = st.builds(
    WaitingJob,
    job_id=st.uuids().map(str),
    bytes_by_kind=st.dictionaries(st.sampled_from(["cpu", "cuda"]), st.integers(1, 90)),
    device_type=st.none() | st.sampled_from(sorted(TYPES)),
    exclusive=st.booleans(),
)


@given(devices=rooms(), job=waiting)
def test_what_fits_now_could_always_fit_and_is_the_smallest_device(devices: list[DeviceRoom], job: WaitingJob) -> None:
    chosen = choose_device(devices, job)
    if chosen is None:
        return
    assert could_ever_fit(devices, job)
    for device in devices:
        if device.schedulable and fits(device, job, device.free_bytes):
            assert chosen.total_bytes <= device.total_bytes
