"""The composition root: what it brings along, and what it makes of the settings."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from orchestrator import wiring
from orchestrator.__main__ import build_launcher
from orchestrator.domain.sizer import ClosedFormSizer
from orchestrator.runtime.local import LocalLauncher
from orchestrator.runtime.ray import RayLauncher
from orchestrator.runtime.sizer import TracedSizer
from orchestrator.settings import Settings

HEAVY = {"torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets"}


def _modules_after(program: str) -> set[str]:
    code = f"import sys\n{program}\nprint('\\n'.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["orchestrator.wiring", "api.__main__"])
def test_the_api_and_what_it_stands_on_load_neither_ray_nor_torch(module: str) -> None:
    loaded = _modules_after(f"import {module}")
    assert "sqlalchemy" in loaded
    assert not loaded & (HEAVY | {"ray"})


def test_the_scheduler_loads_no_deep_learning_stack() -> None:
    assert not _modules_after("import orchestrator.__main__") & HEAVY


def test_importing_the_program_starts_nothing() -> None:
    program = "import threading, orchestrator.__main__; assert threading.active_count() == 1"
    _modules_after(program)


def _settings(folder: Path, **values: object) -> Settings:
    return Settings(data_dir=folder, s3_endpoint="http://127.0.0.1:9", **values)  # type: ignore[arg-type]


def test_everything_is_built_without_asking_anyone(tmp_path: Path) -> None:
    services = wiring.build_services(_settings(tmp_path))
    plane = wiring.build_control_plane(_settings(tmp_path), services, LocalLauncher(stop_grace_seconds=1))
    assert list(plane.runners) == [
        "lead",
        "survey",
        "validate",
        "place",
        "launch",
        "watch",
        "publish",
        "reap",
        "clean",
        "measure",
        "elastic",
    ]
    assert not plane.leadership.is_leading()
    services.close()


def test_estimates_are_traced_unless_the_settings_say_no_and_nothing_is_started(tmp_path: Path) -> None:
    before = threading.active_count()
    traced = wiring.build_services(_settings(tmp_path, estimator_wait_seconds=3))
    plain = wiring.build_services(_settings(tmp_path, estimator="closed_form"))
    assert isinstance(traced.jobs.submissions.sizer, TracedSizer)
    assert (traced.jobs.submissions.sizer.tracer, traced.jobs.submissions.sizer.wait_seconds) == (traced.tracer, 3)
    assert (plain.tracer, plain.estimates.sizer) == (None, ClosedFormSizer("TUNEPOOL_ESTIMATOR is closed_form"))
    assert threading.active_count() == before
    for services in (traced, plain):
        services.close()


def test_turns_are_a_setting_whose_levels_ascend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wiring.read_rules(_settings(tmp_path)).turns_hours == ()
    monkeypatch.setenv("TUNEPOOL_TURNS_HOURS", "[1, 8]")
    assert wiring.read_rules(_settings(tmp_path)).turns_hours == (1.0, 8.0)
    assert not wiring.read_rules(_settings(tmp_path)).turns_spare_larger
    monkeypatch.setenv("TUNEPOOL_TURNS_SPARE_LARGER", "true")
    assert wiring.read_rules(_settings(tmp_path)).turns_spare_larger
    for wrong in ("[8, 1]", "[0, 1]", "[1, 1]", "[-1]"):
        monkeypatch.setenv("TUNEPOOL_TURNS_HOURS", wrong)
        with pytest.raises(ValueError, match="each higher than the one before"):
            _settings(tmp_path)


def test_each_start_has_another_owner() -> None:
    assert wiring.name_owner() != wiring.name_owner()


def test_the_hub_is_asked_only_when_it_may_be(tmp_path: Path) -> None:
    open_ = wiring.build_services(_settings(tmp_path, hub_token="hf_x"))
    closed = wiring.build_services(_settings(tmp_path, allow_hub=False))
    assert open_.models.hub is not None
    assert closed.models.hub is None
    assert "hf_x" not in repr(open_)
    for services in (open_, closed):
        services.close()


def test_nodes_keep_models_where_the_settings_say(tmp_path: Path) -> None:
    assert wiring.cache_dir(_settings(tmp_path)) == tmp_path / "cache"
    assert wiring.cache_dir(_settings(tmp_path, worker_cache_dir=Path("/models"))) == Path("/models")


def test_an_address_attaches_to_ray_and_none_stays_in_this_process(tmp_path: Path) -> None:
    assert isinstance(build_launcher(_settings(tmp_path)), LocalLauncher)
    launcher = build_launcher(_settings(tmp_path, ray_address="127.0.0.1:1", ray_token="t"))
    assert isinstance(launcher, RayLauncher)
    assert launcher.driver_pid is None, "it connects when it is first called"
