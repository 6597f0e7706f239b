"""What pages are given: figures in words, bars to scale, lives of jobs, forms that become requests and come back."""

import ast
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from markupsafe import escape
from pydantic import BaseModel

from api.dashboard import formats
from api.dashboard.routes.login import own_path
from api.dashboard.routes.reports import find_bounds
from api.dashboard.session import is_token, make_token
from api.dashboard.views.bars import WIDTH, Part, lay_out, scale
from api.dashboard.views.job_form import FIELDS, PRESETS, build_body, fill_from, read_values
from api.dashboard.views.jobs import WORDS, find_actions
from api.dashboard.views.memory import show_prediction
from api.dashboard.views.samples import MOST_CHARACTERS, read_samples
from api.dashboard.views.settings import PLAN_NAMES, show_settings
from api.dashboard.views.snippets import show_job
from api.dashboard.views.timeline import lay_out_life
from api.schemas.activity import AttemptOut
from api.schemas.jobs import JobOut
from api.schemas.submissions import JobCreate
from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.spec import JobSpec
from orchestrator.domain.states import AttemptState, JobState
from orchestrator.services.jobs import JobExtras
from tests.support.facts import START, make_attempt, make_job
from tests.support.plans import make_plan

NOTHING = JobExtras(team_name="vision", billed_usd_micros=0, lost_usd_micros=0, adapter=None, attempt=None)


def show(**changes: object) -> JobOut:
    return JobOut.of(make_job(**changes), NOTHING)


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "–"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (150 * 2**30, "150 GiB"), (2**42, "4.0 TiB")],
)
def test_bytes(size: int | None, text: str) -> None:
    assert formats.say_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (3.21, "3.2 s"), (59, "59 s"), (65, "1 min 05 s"), (3725, "1 h 02 min"), (200_000, "2 d 7 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert formats.say_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(2, "now"), (90, "2 min ago"), (-7200, "in 2 h"), (86_400 * 45, "45 d ago"), (-30, "in 30 s")]
)
def test_ages(seconds: float, text: str) -> None:
    assert formats.say_relative(seconds) == text


def test_money_shows_cents_and_tells_micro_dollars() -> None:
    assert ">$1.23<" in formats.say_usd(1_234_567)
    assert "1,234,567 µ$" in formats.say_usd(1_234_567)
    assert escape("<$0.01") in formats.say_usd(1)
    assert ">$0.00<" in formats.say_usd(0)


def test_a_moment_has_its_exact_time() -> None:
    text = formats.say_moment(datetime(2026, 11, 25, 8, 0, tzinfo=UTC).timestamp())
    assert 'datetime="2026-11-25T08:00:00Z"' in text
    assert "2026-11-25 08:00:00 UTC" in text


def test_a_late_job_is_expected_any_moment() -> None:
    assert formats.say_finish(1.0) == "any moment"


def test_bars_never_go_beyond_their_axis_and_hide_nothing() -> None:
    parts = [Part(name=str(n), value=value, look="x") for n, value in enumerate((600, 0, 0.001, 900))]
    placed = lay_out(parts, 1000)
    assert [one.part.name for one in placed] == ["0", "2", "3"]
    assert all(one.width > 0 for one in placed)
    assert placed[-1].x + placed[-1].width == WIDTH
    assert lay_out(parts, 0) == []
    assert (scale(5, 0), scale(-1, 10), scale(20, 10)) == (0, 0, WIDTH)


def test_a_life_is_whole_from_creation_to_end() -> None:
    first = make_attempt(
        AttemptState.LOST, started_at=START + timedelta(seconds=20), ended_at=START + timedelta(seconds=50)
    )
    second = make_attempt(
        AttemptState.SUCCEEDED,
        number=2,
        started_at=START + timedelta(seconds=60),
        ended_at=START + timedelta(seconds=100),
    )
    job = show(
        state=JobState.SUCCEEDED, queued_at=START + timedelta(seconds=10), finished_at=START + timedelta(seconds=100)
    )
    life = lay_out_life(job, [AttemptOut.of(first), AttemptOut.of(second)], now=0)
    assert [span.name for span in life.spans] == ["validation", "waiting", "attempt 1", "waiting", "attempt 2"]
    assert [span.x for span in life.spans] == [0, 100, 200, 500, 600]
    assert [span.width for span in life.spans] == [100, 100, 300, 100, 400]


def test_a_waiting_job_waits_until_now() -> None:
    job = show(state=JobState.QUEUED, queued_at=START)
    life = lay_out_life(job, [], now=(START + timedelta(seconds=100)).timestamp())
    assert [(span.name, span.width) for span in life.spans] == [("waiting", WIDTH)]


def test_what_auto_became_is_shown_and_what_was_asked_is_left() -> None:
    spec = JobSpec.model_validate(
        {"model": "smol", "training_file": "f", "lora": {"r": 8}, "training": {"packing": True}}
    )
    plan = make_plan()
    found = {
        f"{section}.{row.name}": row
        for section, rows in show_settings(spec, show(spec=spec, plan=plan, seed=7), []).items()
        for row in rows
    }
    assert found["lora.alpha"].became == str(plan.lora_alpha)
    assert found["lora.r"].asked == "8"
    assert found["lora.r"].became is None
    assert found["training.packing"].asked == "yes"
    assert found["training.learning_rate"].became is not None
    assert found["job.seed"].became == "7"
    assert set(PLAN_NAMES) <= set(found)
    assert all(name in plan.model_dump() for name in PLAN_NAMES.values())


def test_nothing_became_anything_before_there_is_a_plan() -> None:
    job = show()
    rows = [row for rows in show_settings(make_job().spec, job, []).values() for row in rows]
    assert {row.became for row in rows if row.name != "seed"} == {None}


def test_every_field_of_a_spec_is_among_the_settings() -> None:
    """Metadata is shown beside them, pair by pair."""
    spec = JobSpec(model="smol", training_file="f")
    shown = {row.name for rows in show_settings(spec, show(), []).values() for row in rows}
    assert _leaves(spec) - shown == {"metadata"}


def _leaves(model: BaseModel) -> set[str]:
    found: set[str] = set()
    for name, value in model:
        found |= _leaves(value) if isinstance(value, BaseModel) else {name}
    return found


def test_a_device_type_that_was_left_open_is_the_one_that_the_newest_attempt_has() -> None:
    attempts = [AttemptOut.of(make_attempt(device_type="cpu"))]
    rows = show_settings(make_job().spec, show(), attempts)["resources"]
    assert {row.name: row.became for row in rows}["device_type"] == "cpu"


def test_every_state_has_a_word_and_only_what_can_be_done_is_offered() -> None:
    assert set(WORDS) == set(JobState)
    offered = {state: find_actions(show(state=state, error=None)) for state in JobState}
    assert offered[JobState.RUNNING] == ["pause", "cancel"]
    assert offered[JobState.QUEUED] == offered[JobState.VALIDATING_FILES] == ["hold", "pause", "cancel"]
    assert find_actions(show(state=JobState.QUEUED, held_at=START))[0] == "release"
    assert offered[JobState.PAUSED] == ["resume", "cancel"]
    assert offered[JobState.PAUSING] == ["cancel"]
    assert offered[JobState.SUCCEEDED] == offered[JobState.FAILED] == offered[JobState.CANCELLED] == []
    assert find_actions(show(cancel_requested_at=START)) == []


def test_the_prediction_is_shown_for_the_kind_of_device_that_the_attempt_has() -> None:
    memory = {
        "total_bytes": 1000,
        "breakdown": {"base_weights": 600, "margin": 400, "calibration": -5},
        "method": "traced",
    }
    job = show(estimate={"kind": "cuda", "memory": {"cuda": memory, "cpu": {**memory, "total_bytes": 2000}}})
    waiting = show_prediction(job, [])
    assert waiting is not None
    assert waiting.total_bytes == 1000
    running = show_prediction(job, [AttemptOut.of(make_attempt(reserved_bytes=2100, peak_device_bytes=1900))])
    assert running is not None
    assert running.total_bytes == 2000
    assert {mark.look: mark.bytes for mark in running.marks} == {"reserved": 2100, "measured": 1900}
    assert show_prediction(show(), []) is None


FULL = {
    "model": "tiny", "training_file": "file-1", "validation_file": "file-2", "suffix": "a", "seed": "3",
    "priority": "-5", "max_cost_usd": "1.5", "epochs": "2", "batch_size": "4", "learning_rate": "2e-4",
    "max_seq_length": "512", "micro_batch_size": "2", "gradient_checkpointing": "yes", "optimizer": "sgd",
    "scheduler": "cosine", "warmup_ratio": "0.1", "max_steps": "9", "lora_r": "8", "lora_alpha": "24",
    "lora_dropout": "0.1", "lora_targets": "q_proj, v_proj", "quantization": "nf4", "device_type": "cpu",
    "count": "2", "exclusive": "yes",
}  # fmt: skip


def test_a_form_becomes_the_job_and_the_job_the_form() -> None:
    assert set(FULL) == {field.name for field in FIELDS}
    spec = JobCreate.model_validate(build_body(read_values(FULL))).to_spec()
    assert spec.lora.target_modules == ("q_proj", "v_proj")
    again = fill_from(spec)
    assert JobCreate.model_validate(build_body(again)).to_spec() == spec


def test_an_empty_field_leaves_the_choice_to_auto() -> None:
    values = read_values({"model": " tiny ", "training_file": "f", "epochs": "", "junk": "x"})
    assert build_body(values) == {"model": "tiny", "training_file": "f"}
    assert fill_from(JobCreate.model_validate(build_body(values)).to_spec()) == values


@pytest.mark.parametrize("text", ["x", "1.5", "", "٣٣x", "1" * 5000])
def test_a_number_that_is_none_names_its_field(text: str) -> None:
    if not text:
        assert "training" not in build_body({"model": "m"})
        return
    with pytest.raises(InvalidRequestError, match="micro_batch_size should be a number"):
        build_body({"micro_batch_size": text})


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_is_a_job(name: str) -> None:
    values = {"model": "tiny", "training_file": "f", **PRESETS[name][2]}
    JobCreate.model_validate(build_body(values))


def test_snippets_say_the_same_job_whatever_is_in_it() -> None:
    body = {"model": "a\"b'c", "training_file": "f", "suffix": "x", "lora": {"r": 8, "use_dora": True}, "seed": None}
    found = {snippet.title: snippet.text for snippet in show_job(body, url="http://h")}
    assert yaml.safe_load(found["YAML"]) == body
    call = next(
        node
        for node in ast.walk(ast.parse(found["Python"]))
        if isinstance(node, ast.Call) and node.keywords and node.keywords[0].arg == "model"
    )
    said = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    assert said.pop("extra_body") == {"lora": body["lora"]}
    assert said == {key: value for key, value in body.items() if key != "lora"}


def test_samples_tell_what_is_trained_on_and_survive_anything() -> None:
    rows = (
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}, '
        b'{"role": "assistant", "content": "c"}]}\n[1]\nnot json\n{"messages": 3}\n' + b"[" * 100_000 + b"\n"
        b'{"messages": [7, {"role": "assistant", "content": "' + b"x" * 5000 + b'"}]}\n{"messages": [{"ro'
    )
    first, last = read_samples(rows)
    assert [message.trained for message in first.messages] == [False, False, True]
    assert (last.line, len(last.messages[0].text), last.messages[0].cut_characters) == (6, MOST_CHARACTERS, 1000)


def test_a_token_is_new_each_time_and_belongs_to_its_key() -> None:
    first, second = make_token("key-a"), make_token("key-a")
    assert first != second
    assert is_token("key-a", first)
    assert is_token("key-a", second)
    assert not is_token("key-b", first)
    assert not is_token("key-a", first[:-2] + ("00" if first[-2:] != "00" else "01"))
    assert not any(is_token("key-a", text) for text in ("", "zz", first[:64], first + "00"))


@pytest.mark.parametrize("path", ["//x", "https://x", "x", "", "/\\x", "/a\r\nb"])
def test_only_a_path_of_this_server_is_followed(path: str) -> None:
    assert own_path(path) == "/"
    assert own_path("/jobs/a?b=c") == "/jobs/a?b=c"


def test_periods_are_whole_days_that_do_not_overlap() -> None:
    now = datetime(2026, 3, 1, 0, 30, tzinfo=UTC)
    this, last = find_bounds("month", now), find_bounds("last_month", now)
    assert last == (datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC))
    assert this[0] == last[1]
    assert this[1] > now
    days = find_bounds("30_days", now)
    assert (days[1] - days[0]).days == 30
