"""The speed of a CPU: measured once while nothing waits, kept through surveys, used by the next estimate."""

import pytest

from orchestrator.domain.errors import ClusterUnavailableError
from orchestrator.domain.pool import Device
from orchestrator.objects.client import Objects
from orchestrator.scheduler.measure import QUIET_SECONDS
from orchestrator.store import devices
from orchestrator.store.session import Store
from tests.support.control import Rig, register_model
from tests.support.launchers import ScriptedLauncher, cpu_device
from tests.support.rows import add_job


@pytest.fixture
def rig(store: Store, objects: Objects) -> Rig:
    rig = Rig(store, objects, ScriptedLauncher([cpu_device()]))
    register_model(rig.store)
    return rig


def the_device(rig: Rig) -> Device:
    with rig.store.read() as tx:
        (device,) = devices.list_devices(tx)
    return device


def wait_quiet(rig: Rig) -> None:
    rig.pass_time(QUIET_SECONDS)
    rig.step("lead")


def test_a_device_is_measured_once_and_keeps_its_speed(rig: Rig) -> None:
    rig.step("lead", "survey")
    rig.step("measure")
    assert the_device(rig).speed is None, "the pool came up just now"
    wait_quiet(rig)
    rig.step("measure", "measure")
    assert the_device(rig).speed == rig.launcher.speed
    rig.launcher.devices = []
    rig.step("survey")
    rig.launcher.devices = [cpu_device(total_bytes=2**31)]
    rig.step("survey", "measure")
    assert the_device(rig).speed == rig.launcher.speed
    assert rig.launcher.measured == ["node-a"]


def test_nothing_is_measured_beside_a_job_that_waits_or_runs(rig: Rig) -> None:
    rig.step("lead", "survey")
    with rig.store.write() as tx:
        job = add_job(tx)
    for loops in (["measure"], ["validate", "measure"], ["place", "launch", "measure"]):
        wait_quiet(rig)
        rig.step(*loops)
    assert rig.attempts(job.job_id), "it runs"
    assert rig.launcher.measured == []


def test_a_measurement_that_fails_is_tried_again_later(rig: Rig) -> None:
    def refuse(call: str) -> None:
        if call == "measure":
            raise ClusterUnavailableError

    rig.step("lead", "survey")
    rig.launcher.before = refuse
    wait_quiet(rig)
    rig.step("measure")
    assert the_device(rig).speed is None
    rig.launcher.before = lambda call: None
    rig.step("measure")
    assert rig.launcher.measured == [], "not at once"
    rig.pass_time(60)
    rig.step("lead", "measure")
    assert the_device(rig).speed is not None


def test_a_job_is_estimated_by_the_measured_speed(rig: Rig) -> None:
    rig.launcher.speed = rig.launcher.speed.model_copy(
        update={
            name: getattr(rig.launcher.speed, name) / 10
            for name in ("half_flops_per_second", "elements_per_second", "modules_per_second")
        }
    )

    def training_seconds() -> tuple[float, str]:
        with rig.store.write() as tx:
            job_id = add_job(tx).job_id
        rig.step("validate")
        estimate = rig.job(job_id).estimate
        assert estimate is not None
        time = estimate["time"]["cpu"]
        assert estimate["cost"]["low_usd_micros"] < estimate["cost_usd_micros"] < estimate["cost"]["high_usd_micros"]
        assert estimate["cost"]["confidence"] == time["confidence"] == "low"
        return time["breakdown"]["training"], time["speed"]

    rig.step("lead", "survey")
    with rig.store.write() as tx:
        devices.record_speed(tx, "node-a/cpu:0", rig.launcher.speed)
    slow, source = training_seconds()
    assert source == "measured"
    with rig.store.write() as tx:
        devices.record_speed(tx, "node-a/cpu:0", rig.launcher.speed.model_copy(update={"elements_per_second": 1e12}))
    assert training_seconds()[0] < slow
