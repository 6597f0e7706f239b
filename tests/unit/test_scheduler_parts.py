"""The small pure parts of the loops: grants, contacts, resuming, results, rooms, surveys, sentences."""

import csv
import io
from collections.abc import Iterable
from datetime import timedelta

import pytest

from orchestrator.domain.errors import NotFoundError
from orchestrator.domain.jobs import MetricRecord
from orchestrator.domain.pool import Device, DeviceUse
from orchestrator.domain.protocol import Metric, StoredFile, UploadGrant
from orchestrator.objects.layout import attempt_prefix
from orchestrator.runtime.launcher import DeclaredDevice
from orchestrator.scheduler.contacts import LONGEST_REST_SECONDS, Contacts
from orchestrator.scheduler.grants import Grants
from orchestrator.scheduler.results import write_results_csv
from orchestrator.scheduler.resume import Manifest, checkpoint_source, find_newest_checkpoint
from orchestrator.scheduler.rooms import rooms_of
from orchestrator.scheduler.sentences import describe_bytes, describe_metric, describe_seconds, describe_usd
from orchestrator.scheduler.survey import REFRESH, SurveyFacts, decide_survey
from tests.support.control import FakeClock
from tests.support.facts import NOW, make_attempt
from tests.support.launchers import GIB, cpu_device


class Signer:
    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock

    def presign_post(self, prefix: str, seconds: int) -> UploadGrant:
        return UploadGrant(
            url="http://s3", fields={}, key_prefix=prefix, expires_at_unix=int(self._clock.seconds) + seconds
        )


def test_a_grant_is_for_the_attempts_own_prefix_and_renewed_at_half_time() -> None:
    clock = FakeClock()
    grants = Grants(Signer(clock), seconds=900, clock=clock)
    attempt = make_attempt()
    first = grants.renew(attempt)
    assert first is not None
    assert first.key_prefix == attempt_prefix(attempt.job_id, attempt.attempt_id, 1)
    assert grants.renew(attempt) is not None, "not delivered yet"
    grants.note_delivered(attempt.attempt_id)
    assert grants.renew(attempt) is None
    clock.seconds += 451
    assert grants.renew(attempt) is not None


def test_gone_is_counted_from_the_first_time_and_an_answer_ends_it() -> None:
    clock = FakeClock()
    contacts = Contacts(clock)
    contacts.note_gone("a")
    clock.seconds += 3
    contacts.note_gone("a")
    assert contacts.gone_seconds("a") == 3
    contacts.note_answer("a")
    assert contacts.gone_seconds("a") is None
    contacts.note_gone("a")
    contacts.keep(["b"])
    assert contacts.gone_seconds("a") is None


def test_a_silent_attempt_rests_longer_each_time_and_an_answer_wakes_it() -> None:
    clock = FakeClock()
    contacts = Contacts(clock)
    rests = []
    for _ in range(8):
        contacts.note_silent("a")
        asked_at = clock.seconds
        while not contacts.is_rested("a"):
            clock.seconds += 0.25
        rests.append(clock.seconds - asked_at)
    assert rests[:3] == [0.5, 1.0, 2.0]
    assert rests[-1] == LONGEST_REST_SECONDS
    contacts.note_silent("a")
    contacts.note_answer("a")
    assert contacts.is_rested("a")


class Bucket:
    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}

    def list(self, prefix: str) -> Iterable[tuple[str, int]]:
        return [(key, len(body)) for key, body in sorted(self.bodies.items()) if key.startswith(prefix)]

    def get(self, key: str) -> bytes:
        if key not in self.bodies:
            raise NotFoundError(key)
        return self.bodies[key]

    def presign_get(self, key: str, seconds: int) -> str:
        return f"http://s3/{key}?{seconds}"

    def add(self, number: int, at_step: int, **manifest: object) -> str:
        prefix = f"{attempt_prefix('ftjob-1', f'attempt-{number}', number)}checkpoints/step-{at_step:08d}/"
        self.bodies[prefix + "state.json"] = b"state"
        files = (StoredFile(name="state.json", size_bytes=5, sha256="a"),)
        values = {"version": 1, "step": at_step, "files": files, **manifest}
        self.bodies[prefix + "manifest.json"] = Manifest.model_validate(values).model_dump_json().encode()
        return prefix


ATTEMPTS = [make_attempt(attempt_id=f"attempt-{number}", number=number) for number in (1, 2)]


def _found_step(bucket: Bucket) -> tuple[int, int] | None:
    found = find_newest_checkpoint(bucket, ATTEMPTS)
    return None if found is None else (found.attempt.number, found.manifest.step)


def test_the_checkpoint_that_is_furthest_is_found_and_of_two_the_later_attempts() -> None:
    bucket = Bucket()
    assert _found_step(bucket) is None
    bucket.add(1, 10)
    bucket.add(2, 8)
    assert _found_step(bucket) == (1, 10)
    bucket.add(2, 10)
    assert _found_step(bucket) == (2, 10)


@pytest.mark.parametrize(
    "damage",
    [
        lambda bucket, prefix: bucket.bodies.pop(prefix + "manifest.json"),
        lambda bucket, prefix: bucket.bodies.pop(prefix + "state.json"),
        lambda bucket, prefix: bucket.bodies.update({prefix + "state.json": b"stat"}),
        lambda bucket, prefix: bucket.bodies.update({prefix + "manifest.json": b"{"}),
        lambda bucket, prefix: bucket.bodies.update({prefix + "manifest.json": b" " * 2**21}),
        lambda bucket, prefix: bucket.add(2, 9, step=8),
        lambda bucket, prefix: bucket.add(2, 9, version=2),
        lambda bucket, prefix: bucket.add(2, 9, files=()),
    ],
)
def test_a_broken_checkpoint_is_passed_over(damage: object) -> None:
    bucket = Bucket()
    bucket.add(1, 4)
    prefix = bucket.add(2, 9)
    damage(bucket, prefix)  # type: ignore[operator]
    assert _found_step(bucket) == (1, 4)


def test_a_checkpoint_is_downloaded_as_its_manifest_lists_it() -> None:
    bucket = Bucket()
    prefix = bucket.add(1, 4)
    found = find_newest_checkpoint(bucket, ATTEMPTS)
    assert found is not None
    source = checkpoint_source(bucket, found, seconds=60)
    assert (source.step, [(f.name, f.url, f.sha256) for f in source.files]) == (
        4,
        [("state.json", f"http://s3/{prefix}state.json?60", "a")],
    )


def _record(attempt: int, step: int, **values: float) -> MetricRecord:
    return MetricRecord(metric_id=1, job_id="ftjob-1", attempt_number=attempt, seq=1, at=NOW, step=step, values=values)


def test_the_result_file_holds_the_figures_of_the_training_that_counts() -> None:
    body = write_results_csv(
        [
            _record(1, 1, train_loss=3.0),
            _record(1, 2, train_loss=2.5, grad_norm=0.1),
            _record(1, 3, train_loss=9.0),
            _record(2, 3, train_loss=2.0),
            _record(2, 3, eval_loss=2.25),
        ]
    )
    rows = list(csv.DictReader(io.StringIO(body.decode())))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert (rows[2]["train_loss"], rows[2]["valid_loss"]) == ("2.0", "2.25")
    assert list(rows[0])[-1] == "grad_norm"


def test_a_job_without_metrics_has_a_result_file_with_a_header() -> None:
    assert write_results_csv([]) == b"step,train_loss,valid_loss,valid_mean_token_accuracy,learning_rate\n"


def _stored(declared: DeclaredDevice, *, online: bool = True, age: timedelta = timedelta()) -> Device:
    return Device(
        device_id=declared.device_id,
        node_name=declared.node_name,
        device_type=declared.device_type,
        kind=declared.kind,
        index=declared.index,
        usable_bytes=declared.total_bytes,
        online=online,
        seen_at=NOW - age,
    )


A, B = cpu_device("a"), cpu_device("b")


@pytest.mark.parametrize(
    ("declared", "stored", "is_news"),
    [
        ([], [], False),
        ([A], [], True),
        ([A], [_stored(A)], False),
        ([A], [_stored(A, age=REFRESH)], True),
        ([A], [_stored(A, online=False)], True),
        ([A], [_stored(A), _stored(B, online=False)], False),
        ([], [_stored(A)], True),
        ([A, B], [_stored(A)], True),
        ([cpu_device("a", total_bytes=GIB)], [_stored(A)], True),
    ],
)
def test_a_survey_is_written_down_when_it_says_something_new(
    declared: list[DeclaredDevice], stored: list[Device], is_news: bool
) -> None:
    facts = SurveyFacts(declared=declared, stored=stored, now=NOW)
    assert decide_survey(facts) == ((declared,) if is_news else ())


def test_a_device_has_less_room_for_each_attempt_that_is_not_proved_gone() -> None:
    def use(attempt_id: str, *, draining: bool) -> DeviceUse:
        return DeviceUse(
            device_id=A.device_id,
            attempt_id=attempt_id,
            job_id="ftjob-1",
            team_id="team-1",
            reserved_bytes=GIB,
            peak_device_bytes=0,
            draining=draining,
        )

    rooms = rooms_of([_stored(A), _stored(B, online=False)], [use("1", draining=False), use("2", draining=True)])
    assert [(room.free_bytes, room.schedulable) for room in rooms] == [(6 * GIB, True), (8 * GIB, False)]


@pytest.mark.parametrize(
    ("step", "values", "said"),
    [
        (1, {"train_loss": 1.0}, None),
        (5, {"train_loss": 1.0}, "Step 5/500: training loss=1.0000"),
        (500, {"train_loss": 1.0}, "Step 500/500: training loss=1.0000"),
        (5, {"grad_norm": 1.0}, None),
        (7, {"eval_loss": 2.0}, "Step 7/500: validation loss=2.0000"),
    ],
)
def test_a_long_run_says_some_of_its_losses_and_every_evaluation(
    step: int, values: dict[str, float], said: str | None
) -> None:
    found = describe_metric(Metric(step=step, values=values), total_steps=500)
    assert (found and found[0]) == said


def test_numbers_come_with_units() -> None:
    assert [describe_bytes(n) for n in (512, 2048, 3 * 2**20, 5 * 2**30)] == [
        "512 bytes",
        "2.00 KiB",
        "3.00 MiB",
        "5.00 GiB",
    ]
    assert [describe_usd(n) for n in (1, 99_999, 100_000, 12_345_678)] == ["$0.000001", "$0.099999", "$0.10", "$12.35"]
    assert [describe_seconds(n) for n in (3.4, 119, 600, 7200)] == ["3 s", "119 s", "10 min", "2.0 h"]
