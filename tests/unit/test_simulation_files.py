"""Traces and pools from files: what is read, and what is refused with a word about where."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from api.cli.main import app
from api.cli.simulate import draw_outcomes
from orchestrator.simulation.history import parse_past
from orchestrator.simulation.openb import TraceError, read_nodes, read_tasks
from orchestrator.simulation.philly import as_workload, read_jobs
from orchestrator.simulation.pool_files import PoolFileError, change_pool, parse_pool, read_pool
from orchestrator.simulation.trace_files import read_workload
from orchestrator.simulation.whatif import simulate
from tests.support.traces import write_nodes, write_philly, write_pods

ROOT = Path(__file__).resolve().parents[2]
POOL = {"devices": [{"type": "g24", "gib": 24, "count": 2}], "teams": [{"name": "a", "guarantee": 1}]}


def test_the_openb_lists(tmp_path: Path) -> None:
    nodes, pods = write_nodes(tmp_path), write_pods(tmp_path)
    assert {node.model for node in read_nodes(nodes)} == {"T4", "G2"}
    assert all(node.gpus for node in read_nodes(nodes))
    tasks = read_tasks(pods)
    assert any(task.shape.gpus == 0 for task in tasks)
    assert {task.shape.models for task in tasks} == {frozenset(), frozenset({"T4", "G2"})}
    assert all(task.arrives_at is not None for task in tasks)


def test_the_philly_list_is_read_by_day(tmp_path: Path) -> None:
    trace = write_philly(tmp_path, days=3, per_day=20)
    whole, second = read_jobs(trace), read_jobs(trace, from_day=1, to_day=2)
    assert len(whole) == 60
    assert 0 < len(second) < 60
    assert all(86_400 <= job.arrives_at < 2 * 86_400 for job in second)
    told = as_workload(whole, most_factor=5.0)
    for job, simulated in zip(whole, told, strict=True):
        assert 1 <= simulated.queued.footprints[0].seconds_by_type["*"] / job.seconds <= 5
    assert as_workload(whole, most_factor=5.0) == told


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,cpu\n", "no column"),
        ("name,cpu_milli,memory_mib,num_gpu,gpu_milli\nx,1,1,1,2000\n", "line 2"),
        ("name,cpu_milli,memory_mib,num_gpu,gpu_milli\nx,one,1,1,500\n", "not a number"),
    ],
)
def test_a_broken_list_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "pods.csv"
    path.write_text(text)
    with pytest.raises(TraceError, match=says):
        read_tasks(path)


def test_a_file_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(TraceError, match="neither"):
        read_workload(path, parse_pool(POOL).devices)


def test_history_rows_with_unknown_names_are_refused() -> None:
    with pytest.raises(TraceError, match="row 1"):
        parse_past([{"surprise": 1}])


def test_the_example_is_a_pool() -> None:
    pool = read_pool(ROOT / "examples" / "pool.yaml")
    assert len(pool.devices) == 16
    assert {team.name for team in pool.teams} == {"team-a", "team-b", "team-c"}


def test_changes_add_set_and_create() -> None:
    pool = change_pool(parse_pool(POOL), ["devices.g24.count=+4", "teams.a.guarantee=3", "rules.placement=fgd"])
    assert len(pool.devices) == 6
    assert pool.teams[0].guarantee_micros == 3_000_000
    assert pool.rules.placement == "fgd"
    more = change_pool(pool, ["devices.g80.gib=80", "devices.g80.count=2"])
    assert {device.device_type for device in more.devices} == {"g24", "g80"}
    assert len(parse_pool(POOL).devices) == 2


@pytest.mark.parametrize(
    "change", ["devices.g24", "devices.count=3", "surprise.x=1", "teams.a.colour=red", "rules.a.b=1"]
)
def test_a_change_that_means_nothing_is_refused(change: str) -> None:
    with pytest.raises(PoolFileError):
        change_pool(parse_pool(POOL), [change])


@pytest.mark.parametrize("source", [None, {}, {"devices": [{"type": "x"}]}, {"devices": [{"type": "x", "gib": -1}]}])
def test_what_makes_no_pool_is_refused(source: object) -> None:
    with pytest.raises(PoolFileError):
        parse_pool(source)


def test_more_devices_mean_less_waiting(tmp_path: Path) -> None:
    pool = parse_pool(POOL)
    jobs = read_workload(write_philly(tmp_path, days=1, per_day=60), pool.devices)
    few, many = simulate("few", pool, jobs), simulate("many", change_pool(pool, ["devices.g24.count=+6"]), jobs)
    assert few.all.mean_wait_hours > many.all.mean_wait_hours
    assert few.impossible > many.impossible
    assert sum(team.jobs for team in few.teams) == few.all.jobs
    assert sum(few.waiting_by_hour) == pytest.approx(few.all.mean_wait_hours * few.all.jobs, rel=0.01)


def test_the_command_compares_two_pools() -> None:
    done = CliRunner().invoke(
        app,
        [
            "simulate",
            "--pool",
            str(ROOT / "examples" / "pool.yaml"),
            "--trace",
            "synthetic:2.0",
            "--jobs",
            "40",
            "--change",
            "devices.l4.count=+4",
            "--json",
        ],
    )
    assert done.exit_code == 0, done.output
    first, second = json.loads(done.output)
    assert first["all"]["jobs"] == second["all"]["jobs"] == 40
    assert second["name"] == "devices.l4.count=+4"


def test_the_plot_has_a_line_for_each_pool(tmp_path: Path) -> None:
    pool = parse_pool(POOL)
    jobs = read_workload(write_philly(tmp_path, days=1, per_day=30), pool.devices)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None)
    draw_outcomes(console, [simulate("one", pool, jobs), simulate("two", pool, jobs)])
    plot = screen.getvalue().partition("jobs that wait")[2]
    assert "one" in plot.splitlines()[0]
    assert "two" in plot.splitlines()[0]
    assert len(plot.splitlines()) > 10
