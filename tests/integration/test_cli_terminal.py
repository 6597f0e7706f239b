"""The command line at a terminal, as a process of its own: full screens, keys, questions, narrow and plain ones."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.demo_pool import JOBS, job_id, running_job, serve_pool, the_metrics
from tests.support.stub_api import StubApi, as_error, as_json, as_list
from tests.support.terminals import Terminal

DANGEROUS = re.compile("[\u202e\u009b]|\x1b\\[31m\\[red")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubApi]:
    with StubApi() as stub:
        monkeypatch.setenv("TUNEPOOL_URL", stub.url)
        monkeypatch.setenv("TUNEPOOL_API_KEY", "tp-key")
        serve_pool(stub)
        yield stub


def test_top_is_redrawn_until_q_and_leaves_the_terminal_as_it_was(api: StubApi) -> None:
    news = as_list(*the_metrics(81, first=81))
    api.on("GET", f"{JOBS}/{job_id(1)}/metrics", as_list(*the_metrics(80)), news, as_list())
    with Terminal(["top", "--interval", "0.5"], columns=120) as terminal:
        at = terminal.wait_for("1.325")  # the loss of step 80
        terminal.wait_for("1.317", after=at)  # of step 81, in a later frame
        terminal.press("q")
        assert terminal.end() == 0
        assert terminal.is_restored()
        assert terminal.seen.startswith("\x1b[?1049h")  # a screen of its own
        assert terminal.seen.endswith("\x1b[?25h\x1b[?1049l")  # the cursor is back, the screen is left
        assert not DANGEROUS.search(terminal.seen)
    asked = [asked.query for asked in api.asked_for("GET", f"{JOBS}/{job_id(1)}/metrics")]
    assert "after" not in asked[0]
    assert asked[1]["after"] == "ftmetric-161"


def test_top_waits_for_a_pool_that_does_not_answer(api: StubApi) -> None:
    with Terminal(["top", "--interval", "0.5"], columns=120) as terminal:
        at = terminal.wait_for("POOL")
        api.on("GET", JOBS, as_error(503, "the database is away", x_should_retry="false"))
        api.on("GET", "/v1/pool", as_error(503, "the database is away", x_should_retry="false"))
        terminal.wait_for("no answer", after=at)
        serve_pool(api)
        at = terminal.wait_for("every 0.5 s", after=len(terminal.text))
        os.kill(terminal.process.pid, signal.SIGINT)
        assert terminal.end() == 0
        assert terminal.is_restored()


def test_top_raises_what_waiting_does_not_mend(api: StubApi) -> None:
    with Terminal(["top"]) as terminal:
        terminal.wait_for("POOL")
        api.on("GET", "/v1/pool", as_error(401, "the key was revoked"))
        assert terminal.end() == 4
        assert "the key was revoked" in terminal.text


def test_keys_scroll_the_jobs(api: StubApi) -> None:
    with Terminal(["top", "--interval", "3600"], lines=14) as terminal:
        at = terminal.wait_for("lines 1 to")
        terminal.press("j")
        at = terminal.wait_for("lines 2 to", after=at)
        terminal.press("\x1b[B")
        at = terminal.wait_for("lines 3 to", after=at)
        terminal.press("g")
        terminal.wait_for("lines 1 to", after=at)
        terminal.press("q")
        assert terminal.end() == 0


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("arguments", [("top", "--once"), ("show", job_id(1)), ("plot", job_id(1))])
def test_nothing_is_wider_than_the_terminal(api: StubApi, arguments: tuple[str, ...], columns: int) -> None:
    with Terminal(arguments, columns=columns, lines=50) as terminal:
        assert terminal.end() == 0
        assert max(len(line) for line in terminal.text.splitlines()) <= columns
        assert not DANGEROUS.search(terminal.seen)


@pytest.mark.parametrize("arguments", [("top", "--once"), ("show", job_id(1)), ("plot", job_id(1)), ("jobs",)])
def test_a_terminal_that_is_not_utf8_gets_ascii_and_no_colours_when_it_wants_none(
    api: StubApi, arguments: tuple[str, ...]
) -> None:
    with Terminal(arguments, lines=50, env={"PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}) as terminal:
        assert terminal.end() == 0
        assert terminal.text.isascii()
        assert not re.search(r"\x1b\[[0-9;]*[34][0-7]m", terminal.seen)


def test_job_ids_may_be_given_by_their_ends(api: StubApi) -> None:
    with Terminal(["show", "00000001"]) as terminal:
        assert terminal.end() == 0
        assert job_id(1) in terminal.text
    with Terminal(["show", "0000"]) as terminal:
        assert terminal.end() == 3
        assert "none of the newest jobs ends in 0000" in terminal.text


def test_three_questions_make_a_job_file(api: StubApi, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    (tmp_path / "train.jsonl").write_text((json.dumps(row) + "\n") * 3)
    model = {"id": "llama-8b", "source": "path", "location": "/m", "revision": "r", "created_at": 1, "size_bytes": 5}
    api.on("GET", "/v1/base_models", as_list({**model, "facts": {"total_parameters": 8_030_000_000}}))
    with Terminal(["init"], folder=tmp_path) as terminal:
        terminal.wait_for("Which base model?")
        terminal.press("\r")
        at = terminal.wait_for("Which training file?")
        terminal.press("none.jsonl\r")
        terminal.wait_for("there is no file none.jsonl", after=at)
        terminal.press("train.jsonl\r")
        at = terminal.wait_for("What is it for?")
        terminal.press("9\r")
        terminal.wait_for("What is it for?", after=at)
        terminal.press("style\r")
        assert terminal.end() == 0
        assert "job.yaml: 3 rows of train.jsonl" in terminal.text
    text = (tmp_path / "job.yaml").read_text()
    assert "model: llama-8b" in text
    assert "type: nf4" in text
    assert "r: 8 " in text


def test_following_keeps_to_one_line_at_any_width(api: StubApi) -> None:
    ended = {**running_job(200), "status": "succeeded"}
    api.on("GET", f"{JOBS}/{job_id(1)}", as_json(running_job()), as_json(ended))
    with Terminal(["show", job_id(1), "--follow"], columns=70, lines=50) as terminal:
        assert terminal.end() == 0
        assert max(len(line) for line in terminal.text.replace("\r", "\n").splitlines()) <= 70
        assert "succeeded" in terminal.text
