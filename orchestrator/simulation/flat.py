"""The free devices of a flat pool and the facts that the baselines decide from: what all of them share."""

from collections.abc import Iterable

from orchestrator.domain.scheduling.actions import Start
from orchestrator.domain.scheduling.facts import Hold, Lock, Pin, QueuedJob, RunningJob, SharedDevice, TeamTerms


class FlatPool:
    """Whole devices, all alike. A baseline says which jobs run; which devices they get plays no part."""

    def __init__(self) -> None:
        self.devices: dict[str, SharedDevice] = {}
        self.free: list[str] = []
        self.queued: dict[str, QueuedJob] = {}
        self.running: dict[str, RunningJob] = {}

    def set_devices(self, devices: Iterable[SharedDevice]) -> None:
        self.devices = {device.device_id: device for device in devices}
        taken = {hold.device_id for job in self.running.values() for hold in job.holds}
        usable = [each.device_id for each in self.devices.values() if each.schedulable]
        self.free = sorted((each for each in usable if each not in taken), reverse=True)

    def set_teams(self, terms: Iterable[TeamTerms]) -> None:
        """Baselines know no teams."""

    def set_locks(self, locks: Iterable[Lock]) -> None:
        """Baselines lock nothing."""

    def set_pins(self, pins: Iterable[Pin]) -> None:
        """Baselines pin nothing."""

    def put_queued(self, job: QueuedJob) -> None:
        self.queued[job.job_id] = job

    def drop_queued(self, job_id: str) -> None:
        self.queued.pop(job_id, None)

    def put_running(self, job: RunningJob) -> None:
        if job.job_id not in self.running:
            taken = {hold.device_id for hold in job.holds}
            self.free = [each for each in self.free if each not in taken]
        self.running[job.job_id] = job

    def drop_running(self, job_id: str) -> None:
        job = self.running.pop(job_id, None)
        if job is not None:
            self.free += [hold.device_id for hold in job.holds if self.devices[hold.device_id].schedulable]

    def start(self, job: QueuedJob, device_ids: list[str]) -> Start:
        """The start of a job on these devices."""
        holds = tuple(Hold(device_id=device_id, bytes=self.devices[device_id].usable_bytes) for device_id in device_ids)
        return Start(
            job_id=job.job_id,
            footprint=job.footprints[0],
            holds=holds,
            rate_micros=sum(self.devices[device_id].weight_micros for device_id in device_ids),
            is_borrowing=True,
            runs_as=job.priority_class,
        )


def told_seconds(job: QueuedJob) -> float:
    """How long the job is said to run."""
    return max(job.footprints[0].seconds_by_type.values())
