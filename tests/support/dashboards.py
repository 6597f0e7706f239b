"""A pool that looks lived in, for tests of the dashboard: two teams, jobs in every state, rows behind every page."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import select, update

from api.dashboard.session import COOKIE, make_token
from orchestrator.domain.failures import FailureKind
from orchestrator.domain.protocol import Failed, LogLine, Metric, Peak, Phase, Progress
from orchestrator.domain.teams import Role
from orchestrator.store.tables.attempts import attempts
from tests.support.databases import copy_template
from tests.support.launchers import GIB, cpu_device
from tests.support.servers import ApiServer, run_server
from tests.support.storage import StorageServer
from tests.support.trainers import Trainer

JOBS = "/v1/fine_tuning/jobs"
MIB = 2**20
HTML = {"accept": "text/html,application/xhtml+xml"}
HOSTILE_NAME = '"><script>window.hacked=1</script>\u202egpj.exe ' + "long" * 40 + ".jsonl"
HOSTILE_LINES = (
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "\x1b[31mred\x1b[0m and \x1b]0;title\x07 plain",
    "abc \u202e dlrow \u2066 end",
    "x" * 6000,
    "{{ 7 * 7 }} ${7 * 7}",
)


PAGES = {
    "overview": "/",
    "jobs": "/jobs",
    "running": "/jobs/{running}",
    "succeeded": "/jobs/{succeeded}",
    "failed": "/jobs/{failed}",
    "paused": "/jobs/{paused}",
    "compare": "/compare?job={running}&job={succeeded}",
    "new": "/new?from={running}",
    "data": "/data",
    "file": "/data/{file}",
    "broken": "/data/{broken_file}",
    "pool": "/pool",
    "models": "/models",
    "teams": "/teams",
    "team": "/teams/{team}",
    "audit": "/teams/audit",
    "reports": "/reports",
}
"""Every page, by a name; ids are those of a filled pool."""


@dataclass
class Pool:
    """`ids` names jobs by what they are like; keys are members' of the two teams."""

    server: ApiServer
    ids: dict[str, str]
    keys: dict[str, str]
    trainers: dict[str, Trainer]

    @property
    def url(self) -> str:
        return self.server.url

    def path(self, page: str) -> str:
        return PAGES[page].format(**self.ids)


def chats(count: int = 24) -> bytes:
    rows = (
        {
            "messages": [
                {"role": "system", "content": "You answer for the support desk of a lamp shop."},
                {"role": "user", "content": f"My lamp {n} flickers in the evening. What can I do?"},
                {"role": "assistant", "content": f"Tighten the bulb first, then try socket {n}."},
            ]
        }
        for n in range(count)
    )
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def figures(step: int, total: int) -> dict[str, float]:
    """A run that learns: falling loss, warmup and decay, a little noise that is the same each time."""
    noise = math.sin(step * 12.9898) * 0.5
    rise = min(1.0, step / max(1, total // 12))
    return {
        "train_loss": 0.6 + 1.9 * math.exp(-4 * step / total) + 0.12 * noise,
        "learning_rate": 2e-4 * rise * (1 - step / (total + 1)),
        "grad_norm": 0.8 + 0.5 * abs(noise) + 1.2 * math.exp(-6 * step / total),
        "tokens_per_second": 910 + 60 * noise,
        "peak_device_bytes": float(660 * MIB + int(180 * MIB * (1 - math.exp(-step / 3)))),
    }


def reports(first: int, last: int, total: int) -> Iterator[Any]:
    for step in range(first, last + 1):
        values = figures(step, total)
        yield LogLine(stream="stdout", text=f"step {step}/{total} loss {values['train_loss']:.4f}")
        yield Metric(step=step, values=values)
        if step % max(1, total // 6) == 0:
            yield Metric(step=step, values={"eval_loss": values["train_loss"] + 0.11})
        yield Progress(step=step, total_steps=total, trained_tokens=1650 * step)


def train(trainer: Trainer, server: ApiServer, first: int, last: int) -> None:
    job = server.services.jobs.get(server.admin, trainer.job_id)
    assert job.total_steps is not None
    trainer.report(*reports(first, last, job.total_steps))
    server.step()


def fill(server: ApiServer) -> Pool:
    """Two devices; team 'support' has jobs in every state, team 'vision' one of its own."""
    server.launcher.devices = [cpu_device("node-a", total_bytes=14 * GIB), cpu_device("node-b", total_bytes=8 * GIB)]
    teams = {team: server.make_team(team) for team in ("support", "vision")}
    keys = {team: server.make_key(team=team) for team in ("support", "vision")}
    keys |= {"viewer": server.make_key(Role.VIEWER, team="support"), "admin": server.admin_key}
    server.services.pool.set_price(server.admin, device_type="cpu", usd_micros_per_hour=3_600_000_000)
    server.step()
    pool = Pool(server=server, ids={"team": teams["support"]}, keys=keys, trainers={})
    with server.http(keys["support"]) as http:
        _fill_support(pool, http)
    with server.http(keys["vision"]) as http:
        file_id = pool.ids["foreign_file"] = upload(http, "secret-captions.jsonl", chats(12))
        pool.ids["foreign"] = submit(http, file_id, suffix="secret-captions")
        foreign = pool.trainers["foreign"] = Trainer(server, pool.ids["foreign"])
        begin(foreign, server)
        train(foreign, server, 1, 2)
    _age(server)
    terms = {"guarantee_micros": 1_500_000, "budget_usd_micros": 100_000 * 1_000_000}
    server.services.teams.set_terms(server.admin, "support", terms)
    return pool


def _age(server: ApiServer) -> None:
    """What held a device, and is over or has no end yet, did so for hours: so that the last day has something."""
    with server.services.store.write() as tx:
        ids = [row["attempt_id"] for row in tx.rows(select(attempts.c.attempt_id).order_by(attempts.c.created_at))]
        for number, attempt_id in enumerate(ids):
            began = tx.now() - timedelta(hours=20 - 5 * number)
            mine = attempts.c.attempt_id == attempt_id
            tx.execute(update(attempts).where(mine).values(created_at=began))
            ended = {"released_at": began + timedelta(hours=6)}
            tx.execute(update(attempts).where(mine, attempts.c.released_at.is_not(None)).values(ended))


def _fill_support(pool: Pool, http: Any) -> None:
    server, ids = pool.server, pool.ids
    ids["file"] = upload(http, "lamps.jsonl", chats())
    held = upload(http, "heldout.jsonl", chats(12))
    ids["hostile_file"] = upload(http, HOSTILE_NAME, chats(12))
    ids["broken_file"] = upload(http, "broken.jsonl", chats(3) + b'{"messages": [}\n{"text": "no chat"}\n')
    ids["succeeded"] = submit(http, ids["file"], suffix="lamps-v1", validation_file=held)
    trainer = Trainer(server, ids["succeeded"])
    begin(trainer, server)
    train(trainer, server, 1, 4)
    trainer.save(4)
    train(trainer, server, 5, 9)
    trainer.succeed()
    ids["failed"] = submit(http, ids["file"], suffix="lamps-hot", training={"learning_rate": 0.9})
    failed = Trainer(server, ids["failed"])
    begin(failed, server)
    train(failed, server, 1, 3)
    failed.report(Failed(failure=FailureKind.DIVERGED, message="At step 4 the loss is not a finite number any more."))
    server.step()
    ids["cancelled"] = submit(http, ids["file"], suffix="mistake")
    http.post(f"{JOBS}/{ids['cancelled']}/cancel")
    ids["running"] = submit(
        http, ids["file"], suffix="lamps-v2", validation_file=held, max_cost_usd="5", lora={"r": 32}
    )
    running = pool.trainers["running"] = Trainer(server, ids["running"])
    begin(running, server)
    running.report(*(LogLine(stream="stderr", level="warn", text=line) for line in HOSTILE_LINES))
    train(running, server, 1, 7)
    ids["starting"] = submit(http, ids["file"], suffix="lamps-wide", resources={"exclusive": True})
    server.step("validate")
    ids["paused"] = submit(http, ids["file"], metadata={"run": HOSTILE_LINES[0]})
    http.post(f"{JOBS}/{ids['paused']}/pause")


def begin(trainer: Trainer, server: ApiServer) -> None:
    trainer.begin()
    trainer.report(
        Phase(phase="training"),
        LogLine(stream="tunepool", text="The model is loaded; training begins."),
        Peak(allocated_bytes=130 * MIB, reserved_bytes=150 * MIB, device_bytes=838 * MIB),
    )
    server.step()


def upload(http: Any, name: str, data: bytes) -> str:
    answer = http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": (name, data)})
    return str(answer.json()["id"])


def submit(http: Any, file_id: str, **fields: Any) -> str:
    method = {"supervised": {"hyperparameters": {"n_epochs": 4}}}
    answer = http.post(JOBS, json={"model": "tiny", "training_file": file_id, "method": method, **fields})
    assert answer.is_success, answer.text
    return str(answer.json()["id"])


def surf(pool: Pool, who: str | None) -> httpx2.Client:
    """A browser's requests: HTML wanted, redirects not followed, logged in when `who` is a key's name."""
    cookies = {COOKIE: pool.keys[who]} if who else {}
    return httpx2.Client(
        base_url=pool.url,
        headers=HTML,
        cookies=cookies,
        trust_env=False,
        verify=False,
        timeout=30,
        follow_redirects=False,
    )


def token(pool: Pool, who: str) -> str:
    return make_token(pool.keys[who])


@pytest.fixture(scope="module")
def dashboard(
    storage_server: StorageServer, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> Iterator[Pool]:
    """A filled pool that the tests of a module share; memory is estimated by formulas, so no tracer is started."""
    folder = tmp_path_factory.mktemp("dashboard")
    url = copy_template(sqlite_template, folder)
    options: dict[str, Any] = {"model_roots": (tiny_model.parent,), "estimator": "closed_form"}
    with run_server(storage_server, url, folder, **options) as server:
        server.services.models.add(server.admin, "tiny", str(tiny_model))
        yield fill(server)
