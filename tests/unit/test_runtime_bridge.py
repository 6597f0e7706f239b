"""What the launcher's own process does without a cluster, and what it keeps from the one that is attached."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.domain.errors import AttemptGoneError, ClusterUnavailableError, LeaseLostError, TunepoolError
from orchestrator.runtime.actor import node_environment
from orchestrator.runtime.bridge import driver_environment, error_of
from orchestrator.runtime.ray import RayLauncher, ray_environment


def test_without_a_cluster_a_launcher_can_be_made_and_its_calls_fail_at_once() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        nobody = RayLauncher(f"127.0.0.1:{bound.getsockname()[1]}", "tunepool", "", stop_grace_seconds=1)
        began = time.monotonic()
        for _ in range(20):
            with pytest.raises(ClusterUnavailableError, match="no cluster answers"):
                nobody.list_devices()
        assert time.monotonic() - began < 2
        assert nobody.driver_pid is None
        nobody.close()


def test_an_attached_process_that_does_not_even_start_is_a_cluster_that_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        broken = RayLauncher(address, "tunepool", "", stop_grace_seconds=1, environment={"PYTHONHOME": "/nowhere"})
        with pytest.raises(ClusterUnavailableError, match="ended before it began"):
            broken.list_devices()
        with pytest.raises(ClusterUnavailableError, match="ended before it began"):
            broken.list_devices()
        broken.close()


@pytest.mark.parametrize("error", [ClusterUnavailableError, AttemptGoneError, LeaseLostError])
def test_errors_keep_their_class_over_the_border(error: type[TunepoolError]) -> None:
    told = error_of(error.code, "why")
    assert type(told) is error
    assert told.message == "why"
    assert error_of(error.code, "").message == error().message


def test_an_error_without_a_class_keeps_its_code() -> None:
    told = error_of("validation_crashed", "why")
    assert (type(told), told.code, told.message) == (TunepoolError, "validation_crashed", "why")


def test_the_attached_process_gets_the_token_and_none_of_our_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPOOL_S3_SECRET_KEY", "secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/somewhere/else")
    environment = driver_environment(ray_environment("t0ken"))
    assert (environment["RAY_AUTH_MODE"], environment["RAY_AUTH_TOKEN"]) == ("token", "t0ken")
    assert "secret" not in environment.values()
    assert "RAY_AUTH_TOKEN_PATH" not in environment
    assert driver_environment(ray_environment(""))["RAY_AUTH_TOKEN_PATH"] == "/somewhere/else"


def test_rays_number_of_threads_does_not_reach_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the two, the parent's own environment counts; this test's parent was started before the change."""
    given = node_environment({"OMP_NUM_THREADS": "77", "PATH": "/bin"})
    assert given["PATH"] == "/bin"
    assert given.get("OMP_NUM_THREADS") != "77"


def test_neither_ray_nor_torch_is_imported_by_the_launchers_or_the_actor() -> None:
    program = (
        "import sys, orchestrator.runtime.ray, orchestrator.runtime.local, orchestrator.runtime.actor\n"
        "heavy = sorted({'torch', 'ray', 'transformers'} & set(sys.modules))\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
