"""The live picture of the pool: which lines there are, in which order, and that they fit any screen."""

import io
from typing import Any

import pytest
from rich.console import Console

from api.cli.top import scroll
from api.cli.top_view import Frame, JobLine, draw_frame
from api.client.devices import Pool
from api.client.results import Job
from tests.support.demo_pool import HOSTILE, NOW, a_device, a_job, a_use, the_devices, the_jobs


def a_frame(jobs: list[dict[str, Any]] | None = None, devices: list[dict[str, Any]] | None = None) -> Frame:
    found = the_jobs() if jobs is None else jobs
    lines = [JobLine(Job.model_validate(job)) for job in found]
    if lines:
        lines[0] = JobLine(lines[0].job, (3.5, 2.5, 1.25), 5123.0)
    pool = Pool.model_validate({"devices": the_devices() if devices is None else devices})
    return Frame(url="http://pool", at=float(NOW), pool=pool, jobs=tuple(lines))


def drawn(frame: Frame, width: int = 80, height: int | None = None, **options: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height or 50, force_terminal=True, color_system=None)
    console.print(draw_frame(console, frame, height=height, **options))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [24, 40, 60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_screen_and_each_job_has_one(width: int) -> None:
    lines = drawn(a_frame(), width)
    assert max(map(len, lines)) <= width
    assert sum("gpu-" in line for line in lines) == 3
    assert sum(line[:8].strip().isdigit() or line.startswith("ftjob-") for line in lines) == 6
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_what_runs_comes_first_then_what_waits_by_its_turn_then_what_ended() -> None:
    lines = drawn(a_frame(), 160)
    start = next(index for index, line in enumerate(lines) if line.startswith("JOB "))
    states = [line.split()[1] for line in lines[start + 1 :]]
    assert states == ["training", "queued", "queued", "paused", "succeeded", "failed"]
    assert [line.split()[0][-1] for line in lines[start + 1 :]] == ["1", "2", "3", "4", "5", "6"]


def test_a_line_says_how_far_a_job_is_what_it_costs_and_since_when_it_waits() -> None:
    text = "\n".join(drawn(a_frame(), 160))
    for words in ("40 %", "1.250", "5,123", "12m 14s", "$1.23", "for 2h 00m", "2h 00m ago", "3d ago", "█▅▁"):
        assert words in text
    assert "2 queued, 1 paused, 1 failed, 1 succeeded" in text
    assert r"evil\x1b[31m[red]model[/red]\u202e\nx" in text
    assert HOSTILE not in text


def test_devices_show_what_is_held_by_whom() -> None:
    uses = [a_use(1, 12, 10), a_use(9, 6, 6, visible=False)]
    ending = {**a_use(2, 2, 1), "draining": True}
    text = "\n".join(drawn(a_frame(devices=[a_device("n/cuda:0", [*uses, ending]), a_device("m/cuda:0", [])]), 80))
    assert "20.0 of 24.0 GiB  3 jobs, 1 ending" in text
    assert "0.0 of 24.0 GiB   free" in text
    assert "2 of 2 devices online, 20.0 GiB of 48.0 GiB reserved" in text
    assert "offline" in "\n".join(drawn(a_frame(), 80))


def test_a_screen_holds_what_fits_and_says_what_does_not() -> None:
    jobs = [a_job(number, "succeeded", finished_at=NOW) for number in range(1, 90)]
    devices = [a_device(f"node-{number}/cuda:0", []) for number in range(60)]
    for height in (12, 24, 50):
        lines = drawn(a_frame(jobs, devices), 80, height)
        assert len(lines) < height
        assert f"the first {height - 10}" in lines[2]
        assert "lines 1 to 3 of 89" in "\n".join(lines)
    assert "lines 41 to 43 of 89" in "\n".join(drawn(a_frame(jobs, devices), 80, 24, first=40))


def test_an_empty_pool_says_so() -> None:
    text = "\n".join(drawn(a_frame([], [])))
    assert "no devices are known yet" in text
    assert "no jobs yet: tunepool submit FILE.yaml" in text


def test_trouble_is_shown_with_the_last_picture() -> None:
    text = "\n".join(drawn(a_frame(), 120, 30, seconds=2.0, trouble="http://pool does not answer\x1b[2J"))
    assert r"no answer since: http://pool does not answer\x1b[2J" in text
    assert "training" in text


def test_keys_move_within_the_list() -> None:
    assert [scroll(key, 5, lines=30) for key in ("j", "down", "k", "up", " ", "b", "g", "x")] == [
        6,
        6,
        4,
        4,
        15,
        0,
        0,
        5,
    ]
    assert scroll("j", 29, lines=30) == 29
    assert scroll("k", 0, lines=30) == 0
    assert scroll("j", 0, lines=0) == 0
