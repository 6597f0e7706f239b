"""Laws of placement: no device is promised twice, nobody who fits is left out, the same facts give the same answer."""

from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.placement import (
    DeviceRoom,
    WaitingJob,
    choose_device,
    choose_placements,
    could_ever_fit,
    fits,
)

START = datetime(2026, 11, 23, tzinfo=UTC)
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
    priority=st.integers(-2, 2),
    queued_at=st.integers(0, 5).map(lambda seconds: START + timedelta(seconds=seconds)),
    bytes_by_kind=st.dictionaries(st.sampled_from(["cpu", "cuda"]), st.integers(1, 90)),
    device_type=st.none() | st.sampled_from(sorted(TYPES)),
    exclusive=st.booleans(),
)
queues = st.lists(waiting, max_size=8, unique_by=lambda job: job.job_id)


@settings(max_examples=300)
@given(devices=rooms(), jobs=queues)
def test_no_device_is_over_committed_and_each_promise_is_a_fit(
    devices: list[DeviceRoom], jobs: list[WaitingJob]
) -> None:
    free = {device.device_id: device.free_bytes for device in devices}
    by_id = {device.device_id: device for device in devices}
    asked = {job.job_id: job for job in jobs}
    placements = choose_placements(devices, jobs)
    assert len({placement.job_id for placement in placements}) == len(placements)
    for placement in placements:
        device, job = by_id[placement.device_id], asked[placement.job_id]
        assert device.schedulable
        assert job.device_type in {None, device.device_type}
        assert fits(device, job, free[device.device_id])
        expected = device.total_bytes if job.exclusive else job.bytes_by_kind[device.kind]
        assert placement.reserved_bytes == expected
        free[device.device_id] -= placement.reserved_bytes
        assert free[device.device_id] >= 0


@settings(max_examples=300)
@given(devices=rooms(), jobs=queues)
def test_nobody_who_still_fits_is_left_waiting(devices: list[DeviceRoom], jobs: list[WaitingJob]) -> None:
    placements = choose_placements(devices, jobs)
    free = {device.device_id: device.free_bytes for device in devices}
    for placement in placements:
        free[placement.device_id] -= placement.reserved_bytes
    placed = {placement.job_id for placement in placements}
    for job in jobs:
        if job.job_id not in placed:
            assert not any(device.schedulable and fits(device, job, free[device.device_id]) for device in devices)


@given(devices=rooms(), jobs=queues, order=st.randoms(use_true_random=False))
def test_the_order_of_the_lists_does_not_matter(
    devices: list[DeviceRoom], jobs: list[WaitingJob], order: Random
) -> None:
    expected = choose_placements(devices, jobs)
    shuffled_devices, shuffled_jobs = list(devices), list(jobs)
    order.shuffle(shuffled_devices)
    order.shuffle(shuffled_jobs)
    assert choose_placements(shuffled_devices, shuffled_jobs) == expected


@given(devices=rooms(), job=waiting)
def test_what_fits_now_could_always_fit_and_is_the_smallest_device(devices: list[DeviceRoom], job: WaitingJob) -> None:
    chosen = choose_device(devices, job)
    if chosen is None:
        return
    assert could_ever_fit(devices, job)
    for device in devices:
        if device.schedulable and fits(device, job, device.free_bytes):
            assert chosen.total_bytes <= device.total_bytes
