"""Ray's own autoscaler, asked as production asks it: nodes come when jobs lack their devices, and go when they idle."""

import time

import pytest

from orchestrator.domain.elastic import DeviceGroup
from orchestrator.runtime.ray import RayLauncher
from tests.support.attempt_specs import MIB
from tests.support.clusters import cpu_device, run_cluster

GROWN = cpu_device("grown", mebibytes=512)
COME_SECONDS = 90.0


def wait_for_devices(launcher: RayLauncher, names: set[str]) -> None:
    deadline = time.monotonic() + COME_SECONDS
    while (found := {device.node_name for device in launcher.list_devices()}) != names:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_node_comes_when_its_device_is_asked_for_and_goes_when_it_is_not() -> None:
    with run_cluster([cpu_device("head", mebibytes=64)], grows_by=GROWN, idle_minutes=0.05) as cluster:
        launcher = cluster.launcher()
        wait_for_devices(launcher, {"head"})
        launcher.request_devices([DeviceGroup(device_type="cpu", bytes_by_index={0: 512 * MIB})])
        wait_for_devices(launcher, {"head", "grown"})
        assert {device.total_bytes for device in launcher.list_devices()} == {64 * MIB, 512 * MIB}
        launcher.request_devices([])
        wait_for_devices(launcher, {"head"})
