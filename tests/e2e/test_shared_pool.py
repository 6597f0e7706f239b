"""Three teams share a real Ray cluster of three nodes with devices of different sizes: packing, reclaim, classes, a
budget, a drain and the loss of a node. Afterwards the rows are checked: see `tests.support.pool_audit`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from api.client import Tunepool
from api.client.results import Job
from orchestrator.store import devices
from tests.e2e.jobs import MODEL, make_spec, write_rows
from tests.support.clusters import Cluster, cpu_device, run_cluster
from tests.support.planes import read_job_mebibytes, run_plane
from tests.support.pool_audit import find_faults, read_history
from tests.support.servers import ApiServer, run_server
from tests.support.stack import wait_final, wait_for, wait_step
from tests.support.storage import StorageServer

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]
NODES = {"large": 4, "middle": 3, "small": 2}
"""How many of the burst's jobs each node's device holds at once."""
LONG_STEPS, SHORT_STEPS = 150, 20
PATIENCE_SECONDS = 400.0


@dataclass
class SharedPool:
    """Clients by team; `admin` sees all."""

    server: ApiServer
    cluster: Cluster
    clients: dict[str, Tunepool]
    admin: Tunepool
    file_ids: dict[str, str] = field(default_factory=dict)

    def submit(self, team: str, *, steps: int, **fields: Any) -> Job:
        spec = make_spec(self.clients[team], self.file_ids[team], steps=steps, checkpoint_steps=20)
        return self.clients[team].jobs.create(**{**spec, **fields})

    def wait(self, probe: Callable[[], object], what: str) -> None:
        wait_for(lambda: True if probe() else None, what, seconds=PATIENCE_SECONDS)

    def job(self, job: Job) -> Job:
        return self.admin.jobs.get(job.id)

    def running_on(self) -> dict[str, list[str]]:
        """Job ids by node."""
        return {d.node: [use.job_id or "" for use in d.uses if not use.draining] for d in self.admin.pool.get().devices}


@pytest.fixture
def pool(storage_server: StorageServer, sqlite_url: str, tmp_path: Path, tiny_model: Path) -> Iterator[SharedPool]:
    settings = {
        "model_roots": (tiny_model.parent,),
        "estimator": "closed_form",
        "least_run_seconds": 0,
        "stop_grace_seconds": 20,
        "attempt_lease_seconds": 20,
        "poll_seconds": 0.1,
    }
    with run_server(storage_server, sqlite_url, tmp_path / "data", **settings) as server:
        server.services.models.add(server.admin, MODEL, str(tiny_model))
        admin = Tunepool(server.url, server.admin_key)
        mebibytes = read_job_mebibytes(admin)
        declared = [[cpu_device(name, mebibytes=jobs * mebibytes + 8)] for name, jobs in NODES.items()]
        clients = {}
        for team in ("red", "green", "blue"):
            server.make_team(team)
            clients[team] = Tunepool(server.url, server.make_key(team=team))
        with run_cluster(*declared) as cluster, run_plane(server, cluster):
            pool = SharedPool(server=server, cluster=cluster, clients=clients, admin=admin)
            rows = write_rows(tmp_path / "train.jsonl")
            pool.file_ids = {team: client.files.create(rows).id for team, client in clients.items()}
            pool.wait(lambda: len(pool.running_on()) == len(NODES), "the nodes")
            yield pool
        for client in (admin, *clients.values()):
            client.close()


def test_a_burst_of_three_teams_leaves_sound_rows(pool: SharedPool) -> None:
    pool.admin.teams.set_terms("red", guarantee_devices=1.0)
    blue = [pool.submit("blue", steps=LONG_STEPS) for _ in range(7)]
    idle = [pool.submit("green", steps=LONG_STEPS, priority_class="idle") for _ in range(2)]
    pool.wait(lambda: sum(map(len, pool.running_on().values())) == sum(NODES.values()), "a full pool")
    for job in (*blue, *idle):
        wait_step(pool.admin, job.id, 1)

    # A higher class, and a team that takes back what it was guaranteed.
    green = pool.submit("green", steps=SHORT_STEPS)
    red = [pool.submit("red", steps=SHORT_STEPS) for _ in range(2)]
    pool.wait(lambda: all(pool.job(job).attempt >= 1 for job in (green, *red)), "the starts of green and red")
    victims = [job for job in (*blue, *idle) if pool.job(job).preemptions]
    assert victims

    # A budget that the next start would overdraw.
    pool.admin.teams.set_terms("green", budget_usd="0.000001")
    poor = pool.submit("green", steps=SHORT_STEPS)
    pool.wait(lambda: pool.job(poor).phase == "over_budget", "the budget's refusal")
    why = pool.clients["green"].jobs.why(poor.id)
    assert why.code == "over_budget"
    assert "green" in why.sentence

    # A node is drained, another one is lost.
    pool.admin.pool.set_node("middle", "drain")
    pool.wait(lambda: not pool.running_on()["middle"], "the drain")
    pool.admin.pool.set_node("middle", "uncordon")
    pool.cluster.kill_node("small")
    pool.wait(lambda: "small" not in _online(pool), "the loss")

    pool.admin.teams.set_terms("green", budget_usd=None)
    everything = [*blue, *idle, green, *red, poor]
    ended = [wait_final(pool.admin, job.id, seconds=PATIENCE_SECONDS) for job in everything]
    assert [job.status for job in ended] == ["succeeded"] * len(everything), [job.error for job in ended]
    pool.wait(lambda: not any(pool.running_on().values()), "the last release")
    with pool.server.services.store.read() as tx:
        assert not devices.list_uses(tx)
    assert find_faults(read_history(pool.server.services.store)) == []
    for job in everything:
        cost = pool.admin.jobs.cost(job.id)
        assert cost.final
        assert cost.billed_usd_micros == sum(e.amount_usd_micros for e in cost.entries if e.billed)


def _online(pool: SharedPool) -> set[str]:
    return {device.node for device in pool.admin.pool.get().devices if device.online}
