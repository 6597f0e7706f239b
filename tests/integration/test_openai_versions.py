"""The newest openai client and the last of each older line through every call, while scripted workers train."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.openai_versions import MODELS, OLDER, environment_with, run_contract
from tests.support.servers import ApiServer
from tests.support.trainers import working


@pytest.fixture
def server(api_server: ApiServer, tiny_model: Path) -> Iterator[ApiServer]:
    """With both models, and workers for its jobs."""
    known = {model.name for model in api_server.services.models.list(api_server.admin)}
    for name in set(MODELS) - known:
        api_server.services.models.add(api_server.admin, name, str(tiny_model))
    with working(api_server):
        yield api_server


def test_the_newest_client(server: ApiServer, tmp_path: Path) -> None:
    assert run_contract(Path(sys.executable), server.url, server.admin_key, tmp_path).startswith("3.")


@pytest.mark.slow
@pytest.mark.parametrize("version", OLDER)
def test_an_older_client(server: ApiServer, tmp_path: Path, version: str) -> None:
    assert run_contract(environment_with(version), server.url, server.admin_key, tmp_path) == version
