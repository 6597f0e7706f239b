"""The command line against a scripted server: what it asks, what it prints, and with which code it ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import stamina

from api.cli.follow import SilentView, follow_job
from api.client.results import Event
from api.client.tunepool import Tunepool as Client
from api.stack.folder import Lock, open_folder, write_private
from tests.support.commands import Done, Tunepool
from tests.support.stub_api import StubApi, as_error, as_json, as_list, as_stream

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubApi]:
    with StubApi() as stub, stamina.set_testing(True, attempts=2, cap=True):
        monkeypatch.setenv("TUNEPOOL_URL", stub.url)
        monkeypatch.setenv("TUNEPOOL_API_KEY", "tp-key")
        yield stub


def a_job(**changes: Any) -> dict[str, Any]:
    fields = {"id": "ftjob-1", "status": "queued", "model": "tiny", "created_at": 5, "training_file": "f", "seed": 7}
    progress = {"step": 3, "total_steps": 6, "percent": 50.0, "trained_tokens": 99}
    cost = {"billed_usd_micros": 1234, "billed_usd": "0.001234", "lost_usd_micros": 7, "lost_usd": "0", "final": True}
    return {**fields, "progress": progress, "cost": cost, "fresh": "kept", **changes}


def a_file(file_id: str) -> dict[str, Any]:
    times = {"created_at": 1, "bytes": 2048, "purpose": "fine-tune", "status": "processed"}
    return {"id": file_id, "filename": "train.jsonl", **times}


def serve_followed(api: StubApi, *statuses: str) -> None:
    """A job that passes through these states, with two events and two metrics."""
    api.on("GET", f"{JOBS}/ftjob-1", *[as_json(a_job(status=status)) for status in statuses])
    event = {"created_at": 1, "level": "info"}
    events = [{"id": f"e{n}", "message": f"event {n}", **event} for n in (1, 2)]
    events.append({"id": "e3", "message": "Step 3/6: a figure", "type": "metrics", **event})
    api.on("GET", f"{JOBS}/ftjob-1/events", as_list(*events), as_list())
    metric = {"attempt": 1, "values": {"train_loss": 2.5, "tokens_per_second": 150.0}}
    api.on("GET", f"{JOBS}/ftjob-1/metrics", as_list({"id": "ftmetric-1", "at": 1.0, "step": 3, **metric}), as_list())
    api.on("GET", f"{JOBS}/ftjob-1/attempts", as_list())


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    (tmp_path / "train.jsonl").write_text('{"messages": []}\n')
    path = tmp_path / "job.yaml"
    path.write_text("model: tiny\ntraining_file: train.jsonl\nmax_cost_usd: 0.25\nlora:\n  r: 8\n")
    return path


def test_submit_uploads_the_data_and_prints_the_job(api: StubApi, tunepool: Tunepool, job_file: Path) -> None:
    api.on("POST", "/v1/files", as_json(a_file("file-9")))
    api.on("POST", JOBS, as_json(a_job()))
    done = tunepool("submit", str(job_file))
    assert done == Done(0, "ftjob-1  queued\n", "uploaded train.jsonl (2.0 KiB) as file-9\n")
    assert api.asked[1].json == {"model": "tiny", "training_file": "file-9", "max_cost_usd": "0.25", "lora": {"r": 8}}


def test_submit_as_json_prints_nothing_but_the_job(api: StubApi, tunepool: Tunepool, job_file: Path) -> None:
    api.on("POST", "/v1/files", as_json(a_file("file-9")))
    api.on("POST", JOBS, as_json(a_job()))
    done = tunepool("submit", str(job_file), "--json", "--idempotency-key", "mine")
    assert json.loads(done.out)["fresh"] == "kept"
    assert api.asked[1].headers["idempotency-key"] == "mine"


def test_a_wrong_field_stops_before_anything_is_sent(api: StubApi, tunepool: Tunepool, job_file: Path) -> None:
    job_file.write_text(job_file.read_text() + "  rank: 3\n")
    done = tunepool("submit", str(job_file))
    assert done.code == 2
    assert done.err == f"error: {job_file}:6: lora.rank: there is no such field\n"
    assert api.asked == []


def test_a_field_that_the_server_refuses_is_told_with_its_line(
    api: StubApi, tunepool: Tunepool, job_file: Path
) -> None:
    api.on("POST", "/v1/files", as_json(a_file("file-9")))
    api.on("POST", JOBS, as_error(400, "there is no model tiny", "model_not_found", param="model"))
    done = tunepool("submit", str(job_file))
    assert (done.code, done.out) == (2, "")
    assert f"error: {job_file}:1: model: there is no model tiny" in done.err


@pytest.mark.parametrize(("end", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 1)])
def test_a_followed_job_decides_the_exit_code(
    api: StubApi, tunepool: Tunepool, job_file: Path, end: str, code: int
) -> None:
    api.on("POST", "/v1/files", as_json(a_file("file-9")))
    api.on("POST", JOBS, as_json(a_job()))
    serve_followed(api, end)
    done = tunepool("submit", str(job_file), "--follow")
    assert done.code == code
    for words in ("event 1", "event 2", "step 3/6  loss 2.500  150 tok/s", "$0.001234", end):
        assert words in done.out
    assert "a figure" not in done.out


def test_following_as_json_prints_the_end_only(api: StubApi, tunepool: Tunepool) -> None:
    serve_followed(api, "failed")
    done = tunepool("show", "ftjob-1", "--follow", "--json")
    assert (done.code, json.loads(done.out)["status"], done.err) == (1, "failed", "")


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (as_error(404, "no job x"), 3, "error: no job x"),
        (as_error(401, "bad key"), 4, "hint: check TUNEPOOL_API_KEY"),
        (as_error(403, "viewers only look"), 4, "hint: ask an admin"),
        (as_error(409, "it is over"), 6, "error: it is over"),
        (as_error(503, "the database is away"), 5, "request: req_1"),
    ],
)
def test_errors_end_with_their_code(api: StubApi, tunepool: Tunepool, answer: Any, code: int, words: str) -> None:
    api.on("POST", f"{JOBS}/x/cancel", answer)
    done = tunepool("cancel", "x")
    assert (done.code, done.out) == (code, "")
    assert words in done.err


def test_wrong_use_ends_with_2(tunepool: Tunepool) -> None:
    assert tunepool("submit").code == 2
    assert tunepool("nonsense").code == 2
    assert tunepool("jobs", "--limit", "0").code == 2
    assert tunepool("jobs", "--metadata", "no-equals").code == 2
    assert tunepool("prices", "set", "cpu", "1e5").code == 2


def test_nobody_there_ends_with_5(tunepool: Tunepool, monkeypatch: pytest.MonkeyPatch, api: StubApi) -> None:
    with StubApi() as gone:
        monkeypatch.setenv("TUNEPOOL_URL", gone.url)
    done = tunepool("jobs")
    assert done.code == 5
    assert "does not answer" in done.err
    assert "hint: is the pool up?" in done.err


def test_jobs_are_listed_and_filtered(api: StubApi, tunepool: Tunepool) -> None:
    api.on("GET", JOBS, as_list(a_job(), a_job(id="ftjob-2", status="succeeded")))
    done = tunepool("jobs", "--metadata", "team=red")
    assert [line.split()[:4] for line in done.out.splitlines()[1:]] == [
        ["ftjob-1", "queued", "50", "%"],
        ["ftjob-2", "succeeded", "50", "%"],
    ]
    assert api.asked[0].query == {"limit": "20", "metadata[team]": "red"}
    assert [job["id"] for job in json.loads(tunepool("jobs", "--json").out)] == ["ftjob-1", "ftjob-2"]


def test_last_is_the_newest_job(api: StubApi, tunepool: Tunepool) -> None:
    api.on("GET", JOBS, as_list(a_job()))
    api.on("POST", f"{JOBS}/ftjob-1/cancel", as_json(a_job(status="running")))
    assert tunepool("cancel", "last").out == "ftjob-1  running, cancel requested\n"
    api.on("GET", JOBS, as_list())
    assert tunepool("show").code == 3


def test_a_failed_job_is_shown_with_its_reason_and_what_to_do(api: StubApi, tunepool: Tunepool) -> None:
    error = {"code": "out_of_memory", "message": "4 GiB were not enough", "param": None}
    api.on("GET", f"{JOBS}/ftjob-1", as_json(a_job(status="failed", error=error)))
    failure = {"code": "out_of_memory", "message": "m", "blame": "platform", "hint": "Lower training.micro_batch_size"}
    device = {"device_id": "here/cpu:0", "device_type": "cpu", "reserved_bytes": 2**30, "peak_device_bytes": 2**29}
    attempt = {"id": "attempt-1", "number": 1, "state": "failed", "failure": failure, **device}
    api.on("GET", f"{JOBS}/ftjob-1/attempts", as_list(attempt))
    api.on("GET", f"{JOBS}/ftjob-1/metrics", as_list())
    api.on("GET", "/v1/pool", as_json({"object": "pool", "devices": []}))
    out = tunepool("show", "ftjob-1").out
    for words in ("4 GiB were not enough (out_of_memory)", "Lower training.micro_batch_size", "here/cpu:0"):
        assert words in out
    assert "1.0 GiB reserved, peak 512.0 MiB" in out


def test_logs_are_followed_to_the_end(api: StubApi, tunepool: Tunepool) -> None:
    line = {"id": "ftlog-1", "attempt": 1, "at": 1.5, "stream": "stdout", "level": "info", "text": "[x] hello"}
    done = ("done", "", {"id": "ftjob-1", "status": "succeeded"})
    api.on("GET", f"{JOBS}/ftjob-1/logs", as_stream([("log", "ftlog-1", line), done]))
    assert tunepool("logs", "-f", "ftjob-1").out.endswith("  [x] hello\n")
    out = tunepool("logs", "-f", "ftjob-1", "--json", "--level", "info").out
    assert json.loads(out)["text"] == "[x] hello"
    assert api.asked[1].query["level"] == "info"


def test_a_bill_is_exact(api: StubApi, tunepool: Tunepool) -> None:
    entry = {"attempt_id": "a", "device_type": "cpu", "started_at": 1, "ended_at": 61, "seconds": 60.0}
    price = {"price_usd_micros_per_hour": 350_000, "amount_usd_micros": 1234, "amount_usd": "0.001234"}
    sums = {"billed_usd_micros": 1234, "billed_usd": "0.001234", "lost_usd_micros": 0, "lost_usd": "0", "final": True}
    entries = [{**entry, **price, "billed": True}]
    api.on("GET", f"{JOBS}/ftjob-1/cost", as_json({"job_id": "ftjob-1", **sums, "entries": entries}))
    out = tunepool("cost", "ftjob-1").out
    assert "$0.350000/h" in out
    assert out.endswith("billed: $0.001234\n")


def test_a_pulled_adapter_is_counted(api: StubApi, tunepool: Tunepool, tmp_path: Path) -> None:
    api.on("GET", "/v1/adapters/adapter-1/files", as_list())
    api.on("GET", "/v1/adapters/adapter-1/manifest", as_json({}))
    done = tunepool("pull", "adapter-1", str(tmp_path / "out"))
    assert done == Done(0, f"{tmp_path / 'out'}: 1 files, 2 B, all checksums match\n", "")
    assert json.loads(tunepool("pull", "adapter-1", str(tmp_path / "out"), "--json").out)["files"] == ["manifest.json"]


READ_ONLY: list[tuple[tuple[str, ...], str, dict[str, Any]]] = [
    (("files",), "/v1/files", a_file("file-9")),
    (("files", "list"), "/v1/files", a_file("file-9")),
    (
        ("adapters",),
        "/v1/adapters",
        {
            "id": "adapter-1",
            "name": "ft:x",
            "job_id": "j",
            "base_model": "m",
            "created_at": 1,
            "size_bytes": 5,
            "files": [],
        },
    ),
    (
        ("models",),
        "/v1/base_models",
        {
            "id": "tiny",
            "source": "path",
            "location": "/m",
            "revision": "r",
            "created_at": 1,
            "size_bytes": 5,
            "facts": {},
        },
    ),
    (
        ("prices",),
        "/v1/pool/prices",
        {"device_type": "cpu", "version": 2, "usd_micros_per_hour": 350_000, "usd_per_hour": "0.35", "created_at": 1},
    ),
    (("keys",), "/v1/keys", {"id": "key-1", "name": "ci", "role": "member", "prefix": "tp-ab", "created_at": 1}),
    (("teams",), "/v1/teams", {"id": "red", "name": "red", "created_at": 1}),
]


@pytest.mark.parametrize(("arguments", "path", "item"), READ_ONLY)
def test_lists_are_tables_or_json(
    api: StubApi, tunepool: Tunepool, arguments: tuple[str, ...], path: str, item: dict[str, Any]
) -> None:
    api.on("GET", path, as_list(item))
    table = tunepool(*arguments).out.splitlines()
    assert len(table) == 2
    assert table[1].split()[0] == item.get("id", item.get("device_type"))
    assert {name: json.loads(tunepool(*arguments, "--json").out)[0][name] for name in item} == item
    api.on("GET", path, as_list())
    assert tunepool(*arguments).out.startswith("no ")
    assert tunepool(*arguments, "--json").out == "[]\n"


def test_the_pool_shows_what_runs_and_hides_what_is_anothers(api: StubApi, tunepool: Tunepool) -> None:
    use = {"attempt_id": None, "job_id": None, "reserved_bytes": 2**30, "peak_device_bytes": 0, "draining": True}
    device = {"id": "here/cpu:0", "node": "here", "device_type": "cpu", "kind": "cpu", "usable_bytes": 2**32}
    sizes = {"reserved_bytes": 2**30, "free_bytes": 3 * 2**30, "online": True, "uses": [use]}
    api.on("GET", "/v1/pool", as_json({"object": "pool", "devices": [{**device, **sizes}]}))
    out = tunepool("pool").out
    assert "4.0 GiB" in out
    assert "another team's job (ending)" in out


def test_the_pool_says_what_is_lacking_which_nodes_rest_and_what_holds(api: StubApi, tunepool: Tunepool) -> None:
    rules = {"placement": "default", "preemption": True, "borrower_fairness": False, "turns_hours": [1, 8]}
    answer = {
        "object": "pool",
        "devices": [],
        "nodes": [{"id": "here", "cordoned_at": 5, "drain_requested_at": None, "automatic": True}],
        "lacks": [
            {"device_type": "nvidia-l4", "usable_bytes": 2**34, "devices": 1, "together": 1, "jobs": 3},
            {"device_type": "nvidia-h100", "usable_bytes": 2**36, "devices": 4, "together": 2, "jobs": 1},
        ],
        "rules": {**rules, "pin_after_seconds": 600, "least_run_seconds": 600},
    }
    api.on("GET", "/v1/pool", as_json(answer))
    assert tunepool("pool").out.splitlines()[-4:] == [
        "here  rests: nothing ran there, and no job needs it",
        "3 waiting jobs would start on 1 more device of type nvidia-l4 (16.0 GiB) now",
        "1 waiting job would start on 4 more devices of type nvidia-h100 (64.0 GiB), 2 on one node, now",
        "rules: guarantees and classes may stop jobs; borrowers take turns, after 1 and 8 device-hours",
    ]


def test_an_estimate_says_where_the_job_fits_and_leaves_no_file(
    api: StubApi, tunepool: Tunepool, job_file: Path
) -> None:
    api.on("POST", "/v1/files", as_json(a_file("file-9")))
    api.on("DELETE", "/v1/files/file-9", as_json({"id": "file-9", "deleted": True}))
    rows = {"rows": 126, "tokens": 8888, "longest_row_tokens": 83, "tokens_are": "guessed", "longest_is": "guessed"}
    breakdown = {"base_weights": 2**30, "logits_and_loss": 2**30}
    saving = {"settings": {"training.gradient_checkpointing": True}, "effect": "the same", "total_bytes": 2**30}
    how = {"method": "closed_form", "reason": "memory on cpu is not traced yet"}
    peaks = {"allocated_bytes": 2**29, "reserved_bytes": 2**30, "device_bytes": 2**31}
    savings = [{**saving, "saved_bytes": 2**30, "time_factor": 1.285, "method": "closed_form"}]
    memory = {"cpu": {"total_bytes": 2**31, "breakdown": breakdown, **peaks, **how, "savings": savings}}
    time = {"cpu": {"seconds": 70.0, "low_seconds": 20.0, "high_seconds": 476.0, "steps": 63}}
    change = {"settings": {"training.micro_batch_size": 1}, "effect": "less", "total_bytes": 2**29}
    cost = {"usd_micros": 698, "usd": "0.000698", "low_usd_micros": 201, "high_usd_micros": 4757}
    fit = {"device_type": "cpu", "kind": "cpu", "devices": 1, "largest_bytes": 2**30, "needed_bytes": 2**31}
    fits = [{**fit, "fit": "never", "usd_micros_per_hour": 100_000, "cost": cost, "changes": [change]}]
    answer = {"model": "tiny", "plan": {}, "rows": rows, "memory": memory, "time": time, "devices": fits}
    api.on("POST", "/v1/estimates", as_json({**answer, "warnings": ["a guess"]}))
    out = tunepool("estimate", str(job_file)).out
    for words in (
        "126 rows, 8,888 tokens (a guess)",
        "never  1m 10s (20s to 7m 56s)  $0.000698",
        "it would fit on cpu with training.micro_batch_size: 1 (512.0 MiB)",
        "logits and loss  1.0 GiB",
        "memory on cpu (closed form: memory on cpu is not traced yet)",
        "peak: 512.0 MiB allocated, 1.0 GiB reserved, 2.0 GiB on the device",
        "smaller with training.gradient_checkpointing: true (1.0 GiB, -1.0 GiB, 1.28 times the computing)",
        "note: a guess",
    ):
        assert words in out
    assert api.asked[-1].method == "DELETE"
    assert not [line for line in out.splitlines() if line != line.rstrip()]
    assert json.loads(tunepool("estimate", str(job_file), "--json").out)["model"] == "tiny"
    api.on("POST", "/v1/estimates", as_error(400, "no such model", param="model"))
    assert tunepool("estimate", str(job_file)).code == 2
    assert api.asked[-1].method == "DELETE"


def test_how_right_estimates_were_is_a_table(api: StubApi, tunepool: Tunepool) -> None:
    errors = {"count": 3, "over": 1, "median": 0.021, "p95": 0.125, "worst": 0.2}
    none = {"count": 0, "over": 0, "median": None, "p95": None, "worst": None}
    answer = {"attempts": 4, "since": 1_790_000_000, "out_of_memory": 1, "memory": errors}
    api.on("GET", "/v1/estimates/accuracy", as_json({**answer, "memory_uncalibrated": errors, "time": none}))
    out = tunepool("accuracy").out
    assert "2.1 %" in out
    assert "12.5 %" in out
    assert "4 attempts since" in out
    assert "1 of them ran out of memory" in out
    assert json.loads(tunepool("accuracy", "--json").out)["memory"] == errors
    empty = {**answer, "attempts": 0, "since": None, "memory": none, "memory_uncalibrated": none, "time": none}
    api.on("GET", "/v1/estimates/accuracy", as_json(empty))
    assert "no attempt has been measured yet" in tunepool("accuracy").out


def test_what_is_made_is_told(api: StubApi, tunepool: Tunepool, tmp_path: Path) -> None:
    key = {"id": "key-1", "name": "ci", "role": "viewer", "prefix": "tp-ab", "created_at": 1, "secret": "tp-secret"}
    api.on("POST", "/v1/keys", as_json(key))
    assert tunepool("keys", "create", "ci", "--role", "viewer", "--expires-days", "2").out.startswith("tp-secret\n")
    assert api.asked[-1].json == {"name": "ci", "role": "viewer", "expires_in_seconds": 172_800}
    api.on("DELETE", "/v1/keys/key-1", as_json({"id": "key-1", "deleted": True}))
    assert tunepool("keys", "revoke", "key-1").out == "key-1  revoked\n"
    price = {
        "device_type": "cpu",
        "version": 1,
        "usd_micros_per_hour": 350_000,
        "usd_per_hour": "0.35",
        "created_at": 1,
    }
    api.on("POST", "/v1/pool/prices", as_json(price))
    assert tunepool("prices", "set", "cpu", "0.35").out == "cpu  $0.350000/h\n"
    model = {
        "id": "m",
        "source": "path",
        "location": "/m",
        "revision": "r",
        "created_at": 1,
        "size_bytes": 5,
        "facts": {},
    }
    api.on("POST", "/v1/base_models", as_json(model))
    assert tunepool("models", "add", "m", str(tmp_path)).code == 0
    assert api.asked[-1].json == {"name": "m", "location": str(tmp_path)}
    assert tunepool("models", "add", "m", "org/model-on-the-hub").code == 0
    assert api.asked[-1].json["location"] == "org/model-on-the-hub"


def test_the_running_stack_of_the_data_folder_is_used(
    api: StubApi, tunepool: Tunepool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNEPOOL_URL")
    monkeypatch.delenv("TUNEPOOL_API_KEY")
    monkeypatch.setenv("TUNEPOOL_DATA_DIR", str(tmp_path / "data"))
    folder = open_folder(tmp_path / "data")
    write_private(folder.client_file, json.dumps({"url": api.url, "api_key": "tp-local"}))
    assert tunepool("jobs").code == 5
    lock = Lock(folder)
    api.on("GET", JOBS, as_list())
    assert tunepool("jobs").out == "no jobs yet\n"
    assert api.asked[0].headers["authorization"] == "Bearer tp-local"
    monkeypatch.setenv("TUNEPOOL_URL", "http://127.0.0.1:9")
    assert tunepool("jobs").code == 4
    lock.release()
    assert tunepool("status").code == 5
    assert tunepool("down").out == f"no stack runs on {folder.root}\n"


def test_ctrl_c_leaves_the_job_alone_and_says_so(api: StubApi) -> None:
    serve_followed(api, "running")
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli.main", "show", "ftjob-1", "--follow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    assert process.stdout is not None
    assert "event 1" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "tunepool show ftjob-1 --follow" in err
    assert "tunepool cancel ftjob-1" in err
    assert all(asked.method == "GET" for asked in api.asked)


def test_ctrl_c_that_a_library_swallows_still_ends_the_looking(api: StubApi) -> None:
    class Swallowing(SilentView):
        def event(self, event: Event) -> None:
            with suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    serve_followed(api, "running")
    before = signal.getsignal(signal.SIGINT)
    with Client() as client, pytest.raises(KeyboardInterrupt):
        follow_job(client, "ftjob-1", Swallowing())
    assert signal.getsignal(signal.SIGINT) is before


def test_a_closed_pipe_is_no_traceback(api: StubApi) -> None:
    api.on("GET", JOBS, as_list(*[a_job(id=f"ftjob-{n}") for n in range(2000)]))
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli.main", "jobs"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    process.wait(30)
    assert "Traceback" not in err


def test_the_command_line_starts_without_the_control_plane() -> None:
    program = (
        "import sys, api.cli.main\n"
        "heavy = {'torch', 'ray', 'sqlalchemy', 'boto3', 'fastapi', 'orchestrator.settings'} & set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
