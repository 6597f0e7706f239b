"""The tracer's client against a scripted process: what it answers, and how it bears whatever that process does."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.runtime.processes import ProcessName, is_alive, name_process, wait_until_gone
from orchestrator.runtime.tracer import CACHED_ANSWERS, MAX_WAITING, Found, NoAnswer, Tracer, TracerLimits, _Answers
from tests.support import tracer_stub

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 60.0


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def question(does: str = "answer", *, rows: int = 1) -> dict[str, Any]:
    training = {"micro_batch_size": rows, "gradient_checkpointing": False}
    return {"model_config": {"model_type": "stub", "does": does}, "training": training}


def stub_command(folder: Path) -> tuple[str, ...]:
    return (sys.executable, "-S", tracer_stub.__file__, str(folder))


def started(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir()}


def name_of(pid: int) -> ProcessName:
    found = name_process(pid)
    assert found is not None
    return found


def open_for_reader(fifo: Path) -> int | None:
    """To write to whoever waits at its other end, who goes on when this is closed; None while nobody does (fifo(7))."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


Make = Callable[..., Tracer]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Iterator[Make]:
    made: list[Tracer] = []

    def make_tracer(*command: str, **limits: Any) -> Tracer:
        tracer = Tracer(
            command or stub_command(tmp_path), limits=TracerLimits(**{"start_seconds": 60, **limits}), clock=clock
        )
        made.append(tracer)
        return tracer

    yield make_tracer
    for tracer in made:
        tracer.close()


def ask(tracer: Tracer, *questions: dict[str, Any]) -> list[Found]:
    return tracer.ask(questions, wait_seconds=WAIT_SECONDS)


def reason(found: Found) -> str:
    assert isinstance(found, NoAnswer)
    return found.reason


def test_nothing_is_started_before_the_first_question(make: Make, tmp_path: Path) -> None:
    before = threading.active_count()
    tracer = make()
    assert tracer.find(question()) is None
    assert (started(tmp_path), threading.active_count()) == (set(), before)


def test_one_process_answers_all_and_each_question_once(make: Make, tmp_path: Path) -> None:
    tracer = make()
    found = ask(tracer, question(rows=1), question(rows=2), question(rows=1))
    assert [isinstance(one, dict) and one["breakdown"]["activations"] for one in found] == [2**30, 2**31, 2**30]
    assert [isinstance(one, dict) and one["id"] for one in found] == [1, 2, 1], "the third was remembered"
    assert ask(tracer, question(rows=2)) == [found[1]]
    assert tracer.find(question(rows=2)) == found[1]
    assert len(started(tmp_path)) == 1


def test_a_remembered_answer_takes_less_than_five_milliseconds(make: Make) -> None:
    """With a config as long as the longest that are known, 40 KiB."""
    tracer = make()
    long = question()
    long["model_config"]["layer_types"] = ["full_attention"] * 2300
    ask(tracer, long)
    durations = []
    for _ in range(50):
        began = time.perf_counter()
        ask(tracer, long)
        durations.append(time.perf_counter() - began)
    assert sorted(durations)[25] < 0.005


def test_an_error_is_an_answer_and_ends_nothing(make: Make, tmp_path: Path) -> None:
    tracer = make()
    (found,) = ask(tracer, question("error"))
    assert found == {"id": 1, "error": "model_config: this architecture is not supported"}
    ask(tracer, question())
    assert len(started(tmp_path)) == 1


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("crash", "the tracer ended with 1: Segmentation fault, says the stub"),
        ("garbage", "the tracer answered with something else"),
        ("flood", "the tracer answered with something else"),
        ("other_id", "the tracer answered with something else"),
    ],
)
def test_a_process_that_fails_is_replaced(make: Make, clock: Clock, tmp_path: Path, does: str, says: str) -> None:
    tracer = make()
    ask(tracer, question())
    (first,) = started(tmp_path)
    process = name_of(first)
    (found,) = ask(tracer, question(does))
    assert reason(found) == says
    assert not is_alive(process)
    clock.seconds += 1
    (again,) = ask(tracer, question(rows=2))
    assert isinstance(again, dict)
    assert again["process"] != first


def test_one_that_hangs_is_killed_at_its_deadline(make: Make, tmp_path: Path) -> None:
    tracer = make(answer_seconds=0.2)
    ask(tracer, question())
    (pid,) = started(tmp_path)
    process = name_of(pid)
    (found,) = ask(tracer, question("hang"))
    assert reason(found) == "the tracer gave no answer within 0.2 s"
    assert not is_alive(process)


def test_a_caller_waits_no_longer_than_it_said_and_finds_the_answer_later(make: Make, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    folder = tmp_path / "pids"
    folder.mkdir()
    program = f"open({str(gate)!r}).read(); import runpy, sys; sys.argv = ['stub', {str(folder)!r}]; "
    tracer = make(sys.executable, "-c", f"{program}runpy.run_path({tracer_stub.__file__!r}, run_name='__main__')")
    while (writer := open_for_reader(gate)) is None:
        (found,) = tracer.ask([question()], wait_seconds=0.05)
        assert "busy or still starting" in reason(found)
    (given_up,) = tracer.ask([question(rows=2)], wait_seconds=0.05)
    assert "busy or still starting" in reason(given_up)
    os.close(writer)
    ask(tracer, question(rows=3))
    assert isinstance(tracer.find(question()), dict), "the process had it already"
    assert tracer.find(question(rows=2)) is None, "nobody wants it any more"


def test_a_question_that_ended_a_process_is_not_asked_again_for_a_while(
    make: Make, clock: Clock, tmp_path: Path
) -> None:
    tracer = make()
    ask(tracer, question("crash"))
    clock.seconds += 59
    assert "Segmentation fault" in reason(ask(tracer, question("crash"))[0])
    assert len(started(tmp_path)) == 1
    clock.seconds += 2
    ask(tracer, question("crash"))
    assert len(started(tmp_path)) == 2


def test_pauses_between_starts_grow_and_an_answer_ends_them(make: Make, clock: Clock, tmp_path: Path) -> None:
    tracer = make()
    for pause, rows in ((1, 1), (2, 2), (4, 3)):
        ask(tracer, question("crash", rows=rows))
        before = started(tmp_path)
        clock.seconds += pause - 0.5
        assert "tried again in" in reason(ask(tracer, question(rows=99))[0])
        assert started(tmp_path) == before
        clock.seconds += 0.5
    assert isinstance(ask(tracer, question())[0], dict)
    ask(tracer, question("crash", rows=4))
    clock.seconds += 1
    assert isinstance(ask(tracer, question(rows=5))[0], dict)


def test_a_command_that_does_not_exist_is_a_reason(make: Make) -> None:
    assert "the tracer ended with" in reason(ask(make("/no/such/tracer"), question())[0])


def test_a_control_plane_without_the_workers_libraries_has_a_reason(make: Make) -> None:
    tracer = make(sys.executable, "-c", "import a_library_that_is_not_installed")
    assert "No module named 'a_library_that_is_not_installed'" in reason(ask(tracer, question())[0])


def test_a_process_that_grew_answers_and_is_replaced(make: Make) -> None:
    tracer = make(memory_bytes=700 * 2**20)
    (first,) = ask(tracer, question("grow"))
    assert isinstance(first, dict)
    (second,) = ask(tracer, question())
    assert isinstance(second, dict), "no pause: nothing failed"
    assert second["process"] != first["process"]
    assert name_process(first["process"]) is None


def test_a_question_that_takes_too_much_memory_is_given_up(make: Make) -> None:
    tracer = make(memory_bytes=300 * 2**20)
    assert reason(ask(tracer, question("swell"))[0]) == "the tracer needed more than 300 MiB"


def test_what_it_prints_beside_answers_blocks_nothing(make: Make) -> None:
    assert isinstance(ask(make(), question("talk"))[0], dict)


def test_many_threads_ask_one_process(make: Make, tmp_path: Path) -> None:
    tracer = make()
    found: dict[int, list[Found]] = {}

    def work(number: int) -> None:
        found[number] = ask(tracer, *(question(rows=rows) for rows in range(1 + number, 9 + number)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    for number, answers in found.items():
        rows = [isinstance(one, dict) and one["breakdown"]["activations"] // 2**30 for one in answers]
        assert rows == list(range(1 + number, 9 + number))
    assert len(found) == 12
    assert len(started(tmp_path)) == 1


def test_a_full_queue_refuses(make: Make) -> None:
    tracer = make()
    many = [question("hang"), *(question(rows=rows) for rows in range(1, MAX_WAITING + 3))]
    found = tracer.ask(many, wait_seconds=0.05)
    assert "too many questions wait" in reason(found[-1])


def test_closing_ends_the_process_at_once_and_answers_who_waits(make: Make, tmp_path: Path) -> None:
    tracer = make()
    ask(tracer, question())
    (pid,) = started(tmp_path)
    process = name_of(pid)
    found: list[Found] = []
    waiting = threading.Thread(target=lambda: found.extend(ask(tracer, question("hang"), question(rows=7))))
    waiting.start()
    tracer.close()
    waiting.join(WAIT_SECONDS)
    assert not is_alive(process)
    assert [reason(one).startswith("the control plane is stopping") for one in found] == [True, True]
    assert "stopping" in reason(ask(tracer, question(rows=8))[0])


def test_it_dies_with_a_control_plane_that_is_killed(tmp_path: Path) -> None:
    """Even one that hangs, and so does not see the end of its input."""
    program = (
        "import sys\n"
        "from orchestrator.runtime.tracer import Tracer\n"
        f"tracer = Tracer({stub_command(tmp_path)!r})\n"
        f"print(tracer.ask([{question()!r}], wait_seconds=60)[0]['process'], flush=True)\n"
        f"tracer.ask([{question('hang')!r}], wait_seconds=600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout is not None
    process = name_of(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert wait_until_gone([process], timeout_seconds=WAIT_SECONDS)


def test_memory_of_answers_is_bounded_and_the_least_used_goes_first(clock: Clock) -> None:
    answers = _Answers(clock)
    for number in range(CACHED_ANSWERS):
        answers.keep(str(number), {"id": number})
    assert answers.find("0") is not None
    answers.keep("one more", {"id": -1})
    assert answers.find("0") is not None
    assert answers.find("1") is None
