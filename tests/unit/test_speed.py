"""Device speeds: which catalogue entry a device type gets, and which speed stands for several devices of a type."""

from typing import Any

import pytest

from orchestrator.domain.calibration import choose_speeds
from orchestrator.domain.estimate_terms import UNCALIBRATED, Calibration
from orchestrator.domain.placement import DeviceRoom
from orchestrator.domain.pool import Device, speeds_of_types
from orchestrator.domain.speed import CPU_SPEED, find_speed
from orchestrator.runtime.devices import to_device_type
from orchestrator.scheduler.measure import QUIET_SECONDS, MeasureFacts, choose_unmeasured
from tests.support.facts import NOW


@pytest.mark.parametrize(
    ("product", "tera"),
    [
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA L4", 121),
        ("NVIDIA A10G", 70),
        ("NVIDIA A10", 125),
        ("Tesla T4", 65),
        ("Tesla V100-SXM2-16GB", 125),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("Something new", 165.2),
    ],
)
def test_a_product_is_found_in_the_catalogue(product: str, tera: float) -> None:
    found = find_speed("cuda", to_device_type(product))
    assert found.half_flops_per_second == pytest.approx(0.35 * tera * 1e12)
    assert not found.measured


def device(number: int = 0, **changes: Any) -> Device:
    values: dict[str, Any] = {"device_type": "cpu", "kind": "cpu", "index": 0, "usable_bytes": 1, "online": True}
    values |= {"device_id": f"node-{number}/cpu:0", "node_name": f"node-{number}", "seen_at": NOW}
    return Device(**values | changes)


def speed(rate: float) -> Any:
    return CPU_SPEED.model_copy(update={"measured": True, "half_flops_per_second": rate})


def test_the_slowest_measured_device_stands_for_its_type() -> None:
    several = [device(0), device(1, speed=speed(3e12)), device(2, speed=speed(2e11)), device(3, speed=speed(1e12))]
    for order in (several, several[::-1]):
        assert speeds_of_types(order) == {"cpu": speed(2e11)}
    assert speeds_of_types([device()]) == {"cpu": CPU_SPEED}
    gpu = device(device_type="nvidia-l4", kind="cuda")
    assert speeds_of_types([gpu, device()]) == {"nvidia-l4": find_speed("cuda", "nvidia-l4"), "cpu": CPU_SPEED}


def test_the_type_that_is_known_best_is_estimated_by() -> None:
    rooms = [room(name) for name in ("new", "known", "other")]
    speeds = {name: speed(rate) for name, rate in (("new", 3e12), ("known", 1e12), ("other", 2e12))}
    taught = {"new": UNCALIBRATED, "known": Calibration(time_runs=3), "other": Calibration(related_runs=9)}
    assert choose_speeds(rooms, speeds, taught) == {"cpu": speeds["known"], "cuda": find_speed("cuda")}
    assert choose_speeds(rooms, speeds, {})["cpu"] == speeds["known"]
    assert choose_speeds([], {}, {}) == {"cpu": CPU_SPEED, "cuda": find_speed("cuda")}


def room(device_type: str) -> DeviceRoom:
    return DeviceRoom(
        device_id=device_type, device_type=device_type, kind="cpu", total_bytes=1, free_bytes=1, schedulable=True
    )


def test_only_idle_cpus_that_were_never_measured_are_measured_one_at_a_time() -> None:
    def choose(*stored: Device, used: frozenset[str] = frozenset(), quiet: float = QUIET_SECONDS) -> list[str]:
        return [one.device_id for one in choose_unmeasured(MeasureFacts(stored=stored, used=used, quiet_seconds=quiet))]

    first, second = device(0), device(1)
    assert choose(first, second) == [first.device_id]
    assert choose(first, second, used=frozenset({first.device_id})) == [second.device_id]
    assert choose(first, second, quiet=QUIET_SECONDS - 1) == []
    assert choose(device(speed=speed(1e12)), device(online=False), device(kind="cuda", device_type="nvidia-l4")) == []
