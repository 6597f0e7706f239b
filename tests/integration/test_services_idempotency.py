"""Repeats on both engines: known by key or by hash, answered from what the first one made, apart for every key."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
from sqlalchemy import update

from orchestrator.domain.artifacts import FileStatus
from orchestrator.domain.errors import IdempotencyMismatchError, InvalidRequestError
from orchestrator.domain.jobs import Job
from orchestrator.domain.pool import BaseModel
from orchestrator.domain.spec import JobSpec
from orchestrator.domain.teams import Caller, Role
from orchestrator.services import idempotency
from orchestrator.services.idempotency import RETRY_WINDOW, Repeat
from orchestrator.services.jobs import Jobs
from orchestrator.services.submissions import Submissions
from orchestrator.store.session import Store
from orchestrator.store.tables.accounts import idempotency_records as records
from tests.support.plans import make_base_model
from tests.support.rows import add_file, add_key, add_team

SCOPE = "POST /things"


@pytest.fixture
def caller(store: Store) -> Caller:
    return make_key(store)


def make_key(store: Store) -> Caller:
    with store.write() as tx:
        team = add_team(tx)
        key = add_key(tx, team.team_id)
    return Caller(key_id=key.key_id, team_id=team.team_id, team_name=team.name, role=Role.MEMBER)


def create(store: Store, caller: Caller, thing: str, repeat: Repeat, *, scope: str = SCOPE) -> str:
    """A create that makes `thing`; returns what the request is answered with."""
    with store.write() as tx:
        first = idempotency.claim(tx, caller, scope=scope, repeat=repeat, object_id=thing)
        return thing if first is None else first


def age_records(store: Store, age: timedelta) -> None:
    with store.write() as tx:
        tx.execute(update(records).values(created_at=tx.now() - age))


def test_a_key_stands_for_one_object(store: Store, caller: Caller) -> None:
    assert create(store, caller, "one", Repeat(fingerprint="f", key="k")) == "one"
    assert create(store, caller, "two", Repeat(fingerprint="f", key="k")) == "one"
    assert create(store, caller, "two", Repeat(fingerprint="f", key="other")) == "two"


def test_the_same_key_of_others_and_for_other_requests_is_another(store: Store, caller: Caller) -> None:
    create(store, caller, "one", Repeat(fingerprint="f", key="k"))
    assert create(store, make_key(store), "two", Repeat(fingerprint="f", key="k")) == "two"
    assert create(store, caller, "three", Repeat(fingerprint="f", key="k"), scope="POST /others") == "three"


def test_a_key_with_another_body_is_refused_before_and_in_the_claim(store: Store, caller: Caller) -> None:
    create(store, caller, "one", Repeat(fingerprint="f", key="k"))
    other = Repeat(fingerprint="g", key="k")
    with pytest.raises(IdempotencyMismatchError):
        create(store, caller, "two", other)
    with store.read() as tx, pytest.raises(IdempotencyMismatchError):
        idempotency.find_first(tx, caller, scope=SCOPE, repeat=other)


def test_a_create_that_fails_leaves_its_key_free(store: Store, caller: Caller) -> None:
    def fail() -> None:
        with store.write() as tx:
            repeat = Repeat(fingerprint="f", key="k")
            assert idempotency.claim(tx, caller, scope=SCOPE, repeat=repeat, object_id="one") is None
            raise InvalidRequestError("No.")

    with pytest.raises(InvalidRequestError):
        fail()
    assert create(store, caller, "two", Repeat(fingerprint="f", key="k")) == "two"


def test_a_retry_without_a_key_finds_the_same_body_for_a_quarter_of_an_hour(store: Store, caller: Caller) -> None:
    create(store, caller, "one", Repeat(fingerprint="f"))
    retry = Repeat(fingerprint="f", retries=1)
    assert create(store, caller, "two", retry) == "one"
    assert create(store, make_key(store), "theirs", retry) == "theirs"
    age_records(store, RETRY_WINDOW - timedelta(minutes=1))
    assert create(store, caller, "two", retry) == "one"
    age_records(store, RETRY_WINDOW + timedelta(minutes=1))
    assert create(store, caller, "two", retry) == "two"


def test_a_first_send_is_never_taken_for_a_repeat(store: Store, caller: Caller) -> None:
    assert [create(store, caller, thing, Repeat(fingerprint="f")) for thing in "abc"] == ["a", "b", "c"]
    assert create(store, caller, "d", Repeat(fingerprint="f", retries=2)) == "c"


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_keys_have_a_length(key: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Repeat(fingerprint="f", key=key)
    assert caught.value.param == "Idempotency-Key"


@dataclass(frozen=True)
class Models:
    resolve_model: Callable[[], BaseModel]

    def resolve(self, name: str) -> BaseModel:
        return self.resolve_model()


@pytest.mark.parametrize("repeat", [Repeat(fingerprint="f", key="k"), Repeat(fingerprint="f", retries=1)])
def test_a_repeat_is_answered_though_the_model_is_gone(store: Store, caller: Caller, repeat: Repeat) -> None:
    def gone() -> BaseModel:
        raise InvalidRequestError("no such model", code="model_not_found", param="model")

    with store.write() as tx:
        file = add_file(tx, caller.team_id, status=FileStatus.PROCESSED, report={"rows": 20})
    spec = JobSpec(model="one", training_file=file.file_id)

    def submit(models: Models) -> Job:
        return Jobs(store, Submissions(store, models)).create(caller, spec, repeat=repeat)

    first = submit(Models(make_base_model))
    assert submit(Models(gone)).job_id == first.job_id
    with pytest.raises(InvalidRequestError, match="no such model"):
        Jobs(store, Submissions(store, Models(gone))).create(caller, spec, repeat=Repeat(fingerprint="g", retries=1))
