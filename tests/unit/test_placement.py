"""Which job goes where: examples for each rule; tests/property has the laws."""

from typing import Any

from orchestrator.domain.placement import (
    DeviceKind,
    DeviceRoom,
    WaitingJob,
    choose_device,
    could_ever_fit,
    count_together,
    find_together,
    fits,
)


def room(device_id: str, total: int, free: int | None = None, *, kind: DeviceKind = "cuda", **more: Any) -> DeviceRoom:
    values = {"device_type": "rtx", "schedulable": True, **more}
    return DeviceRoom(
        device_id=device_id, kind=kind, total_bytes=total, free_bytes=total if free is None else free, **values
    )


def job(name: str, need: int, **more: Any) -> WaitingJob:
    values: dict[str, Any] = {"device_type": None, "exclusive": False, "bytes_by_kind": {"cuda": need}, **more}
    return WaitingJob(job_id=name, **values)


def place(devices: list[DeviceRoom], wanted: WaitingJob) -> str | None:
    chosen = choose_device(devices, wanted)
    return None if chosen is None else chosen.device_id


def test_the_smallest_device_that_suffices_then_the_tightest_then_the_first_by_name() -> None:
    assert place([room("big", 80), room("small", 24)], job("x", 10)) == "small"
    assert place([room("empty", 24), room("used", 24, 12)], job("x", 10)) == "used"
    assert place([room("b", 24), room("a", 24)], job("x", 10)) == "a"


def test_free_bytes_of_two_devices_are_never_added() -> None:
    assert place([room("a", 24, 8), room("b", 24, 8)], job("x", 10)) is None


def test_devices_for_several_are_those_that_enough_others_are_as_large_as() -> None:
    rooms = [room("node/cuda:0", 24), room("node/cuda:1", 80)]
    assert [each.device_id for each in find_together(rooms, 2)] == ["node/cuda:0"], "no two have 80"
    assert find_together(rooms, 1) == rooms
    assert find_together(rooms, 3) == []


def test_an_exclusive_job_takes_a_whole_empty_device() -> None:
    alone = job("x", 4, exclusive=True)
    assert place([room("a", 24, 23), room("b", 80)], alone) == "b"
    assert place([room("a", 24, 23)], alone) is None


def test_a_device_that_is_away_takes_nothing_and_still_could() -> None:
    away = room("a", 24, schedulable=False)
    assert choose_device([away], job("x", 10)) is None
    assert could_ever_fit([away], job("x", 10))


def test_a_job_goes_only_to_its_type_and_to_kinds_that_it_has_a_size_for() -> None:
    devices = [room("a", 24), room("c", 64, kind="cpu", device_type="cpu")]
    assert place(devices, job("x", 10, device_type="cpu")) is None
    sizes = {"cuda": 30, "cpu": 40}
    assert place(devices, job("x", 0, bytes_by_kind=sizes)) == "c"
    assert not could_ever_fit(devices, job("x", 0, bytes_by_kind={"cpu": 40}, device_type="rtx"))


def test_fit_is_to_the_byte() -> None:
    assert fits(room("a", 24), job("x", 24), 24)
    assert not fits(room("a", 24), job("x", 25), 24)


def test_a_gang_needs_its_devices_on_one_node_and_of_one_type() -> None:
    pair = job("x", 10, count=2)
    apart = [room("a/cuda:0", 24), room("b/cuda:0", 24)]
    mixed = [room("a/cuda:0", 24), room("a/cuda:1", 24, device_type="other")]
    assert not could_ever_fit(apart, pair)
    assert not could_ever_fit(mixed, pair)
    together = [*apart, room("b/cuda:1", 24, 9)]
    assert could_ever_fit(together, pair)
    assert place(together, pair) is None
    assert place([*together, room("b/cuda:2", 24)], pair) == "b/cuda:0"
    assert count_together(together, job("x", 10, count=3)) == 2
