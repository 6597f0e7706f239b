"""The pool's past as a workload: read from both engines, over HTTP by admins only, and run again."""

from datetime import timedelta

from orchestrator.domain.outcomes import lost, succeeded
from orchestrator.domain.states import AttemptState
from orchestrator.domain.teams import Caller, Role
from orchestrator.services.simulation import History
from orchestrator.simulation.history import as_workload
from orchestrator.simulation.pool_files import parse_pool
from orchestrator.simulation.whatif import simulate
from orchestrator.store import attempts
from orchestrator.store.session import Store
from tests.support.rows import add_running_attempt
from tests.support.servers import ApiServer

ADMIN = Caller(key_id="key-1", team_id="team-1", team_name="t", role=Role.ADMIN)


def _run_for(store: Store, hours: float, *, fails: bool = False) -> str:
    with store.write() as tx:
        attempt = add_running_attempt(tx)
        assert attempt.started_at is not None
        ended_at = attempt.started_at + timedelta(hours=hours)
        if fails:
            outcome = lost("the node is gone")
        else:
            outcome = succeeded()
            attempt = attempts.apply_attempt_transition(
                tx, attempt.attempt_id, attempt.lease_token, AttemptState.VERIFYING
            )
        attempts.end_attempt(tx, attempt.attempt_id, attempt.lease_token, outcome, ended_at=ended_at)
    return attempt.job_id


def test_what_ran_is_read_and_can_run_again(store: Store) -> None:
    first, second = _run_for(store, 2), _run_for(store, 1)
    past = {job.job_id: job for job in History(store).read(ADMIN, days=30)}
    assert {first, second} == set(past)
    assert past[first].run_seconds == 2 * 3600
    assert past[first].kind == "cuda"
    assert past[first].reserved_bytes > 0
    pool = parse_pool({"devices": [{"type": "g", "gib": past[first].reserved_bytes / 2**30}]})
    outcome = simulate("past", pool, as_workload(past.values()))
    assert outcome.all.jobs == 2
    assert outcome.all.worst_wait_hours > 0.9


def test_jobs_that_never_ran_are_no_history(store: Store) -> None:
    with store.write() as tx:
        add_running_attempt(tx)
    assert History(store).read(ADMIN, days=30) == []


def test_the_route_is_for_admins(api_server: ApiServer) -> None:
    with api_server.http() as http:
        assert http.get("/v1/simulation/history", params={"days": 7}).json() == {
            "object": "simulation.history",
            "data": [],
        }
        assert http.get("/v1/simulation/history", params={"days": 0}).status_code == 400
    with api_server.http(api_server.make_key(Role.MEMBER)) as http:
        assert http.get("/v1/simulation/history").status_code == 403
