"""Arrays of jobs at the command line and in the Python client, against a scripted server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stamina

from api.client.tunepool import Tunepool as Client
from tests.support.commands import Done, Tunepool
from tests.support.stub_api import StubApi, as_error, as_json, as_list

ARRAYS = "/v1/fine_tuning/job_arrays"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubApi]:
    with StubApi() as stub, stamina.set_testing(True, attempts=2, cap=True):
        monkeypatch.setenv("TUNEPOOL_URL", stub.url)
        monkeypatch.setenv("TUNEPOOL_API_KEY", "tp-key")
        yield stub


def an_array(**changes: Any) -> dict[str, Any]:
    jobs = [
        {"id": "ftjob-1", "status": "running", "varied": {"lora.r": 8}, "best_eval_loss": 1.25},
        {"id": "ftjob-2", "status": "queued", "varied": {"lora.r": 16}, "best_eval_loss": None},
    ]
    fields = {"id": "ftarray-1", "name": "job", "team": "vision", "created_at": 5, "total": 2, "max_parallel": 1}
    return {**fields, "counts": {"queued": 1, "running": 1}, "best_job_id": "ftjob-1", "jobs": jobs, **changes}


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text("model: tiny\ntraining_file: file-9\nmax_cost_usd: 0.25\nlora:\n  r: 8\n")
    return path


def test_submit_with_vary_makes_an_array(api: StubApi, tunepool: Tunepool, job_file: Path) -> None:
    api.on("POST", ARRAYS, as_json(an_array()))
    vary = ("--vary", "lora.r=8,16", "--vary", "training.learning_rate=1e-4,2e-4")
    done = tunepool("submit", str(job_file), *vary, "--max-parallel", "1", "--idempotency-key", "mine")
    assert done == Done(0, "ftarray-1  2 jobs, at most 1 at once\n", "")
    (asked,) = api.asked
    assert asked.headers["idempotency-key"] == "mine"
    assert asked.json == {
        "job": {"model": "tiny", "training_file": "file-9", "max_cost_usd": "0.25", "lora": {"r": 8}},
        "vary": {"lora.r": [8, 16], "training.learning_rate": [1e-4, 2e-4]},
        "max_parallel": 1,
        "name": "job",
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--max-parallel", "2"), "give --vary too"),
        (("--vary", "lora.r=8,16", "--follow"), "tunepool arrays show"),
        (("--vary", "lora.r"), "write FIELD=VALUE"),
    ],
)
def test_options_that_do_not_go_together_send_nothing(
    api: StubApi, tunepool: Tunepool, job_file: Path, options: tuple[str, ...], words: str
) -> None:
    done = tunepool("submit", str(job_file), *options)
    assert done.code == 2
    assert words in done.err
    assert api.asked == []


def test_a_refusal_names_the_value_or_the_line(api: StubApi, tunepool: Tunepool, job_file: Path) -> None:
    refused = as_error(400, "job 2 of 2 (lora.r = 0): too small", "invalid_value", param="vary.lora.r[1]")
    api.on("POST", ARRAYS, refused, as_error(400, "no such model", "model_not_found", param="job.model"))
    first, second = (tunepool("submit", str(job_file), "--vary", "lora.r=8,0") for _ in range(2))
    assert first.err == "error: --vary.lora.r[1]: job 2 of 2 (lora.r = 0): too small\n"
    assert second.err == f"error: {job_file}:1: model: no such model\n"
    assert (first.code, second.code) == (2, 2)


def test_arrays_are_listed_and_shown_with_what_each_job_reached(api: StubApi, tunepool: Tunepool) -> None:
    listed = {name: value for name, value in an_array().items() if name not in {"jobs", "best_job_id"}}
    api.on("GET", ARRAYS, as_list(listed))
    api.on("GET", f"{ARRAYS}/ftarray-1", as_json(an_array()))
    lines = tunepool("arrays").out.splitlines()
    assert lines[0].split() == ["ARRAY", "NAME", "JOBS", "STATES", "AT", "ONCE", "CREATED"]
    assert lines[1].startswith("ftarray-1  job      2  1 queued, 1 running        1  ")
    shown = tunepool("arrays", "show").out.splitlines()
    assert shown[-3].split() == ["JOB", "STATUS", "LORA.R", "EVAL", "LOSS"]
    assert [line.split() for line in shown[-2:]] == [["ftjob-1", "running", "8", "1.2500"], ["ftjob-2", "queued", "16"]]
    assert json.loads(tunepool("arrays", "show", "ftarray-1", "--json").out) == an_array(
        jobs=[{**job, "fine_tuned_model": None} for job in an_array()["jobs"]]
    )


def test_an_array_is_limited_and_cancelled(api: StubApi, tunepool: Tunepool) -> None:
    api.on("PATCH", f"{ARRAYS}/ftarray-1", as_json(an_array(max_parallel=4)), as_json(an_array(max_parallel=None)))
    api.on("POST", f"{ARRAYS}/ftarray-1/cancel", as_json(an_array(counts={"cancelled": 2})))
    assert tunepool("arrays", "set", "ftarray-1", "--max-parallel", "4").out == "ftarray-1  at once: 4\n"
    assert tunepool("arrays", "set", "ftarray-1", "--max-parallel", "none").out == "ftarray-1  at once: -\n"
    assert [asked.json for asked in api.asked] == [{"max_parallel": 4}, {"max_parallel": None}]
    assert tunepool("arrays", "cancel", "ftarray-1").out == "ftarray-1  2 cancelled\n"
    assert tunepool("arrays", "set", "ftarray-1", "--max-parallel", "few").code == 2


def test_there_is_no_newest_array_before_the_first(api: StubApi, tunepool: Tunepool) -> None:
    api.on("GET", ARRAYS, as_list())
    assert tunepool("arrays", "show").code == 3
    assert tunepool("arrays", "list").out == "no arrays yet\n"


def test_a_repeated_create_of_the_client_carries_one_key(api: StubApi) -> None:
    api.on("POST", ARRAYS, as_error(503), as_json(an_array()))
    with Client(api.url, "tp-key") as client:
        made = client.arrays.create({"model": "tiny", "training_file": "file-1"}, {"lora.r": [8, 16]})
    assert [job.varied for job in made.jobs] == [{"lora.r": 8}, {"lora.r": 16}]
    assert len({asked.headers["idempotency-key"] for asked in api.asked}) == 1
    assert len(api.asked) == 2
