"""The newest openai client and the last of each older line through every call, on a stack that trains for real."""

import sys
from pathlib import Path

import pytest

from tests.support.openai_versions import MODELS, OLDER, environment_with, run_contract
from tests.support.stack import RunningStack

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def prepared(stack: RunningStack, tiny_model: Path) -> RunningStack:
    """With both models."""
    with stack.connect() as client:
        for name in MODELS:
            client.base_models.create(name=name, location=str(tiny_model))
    return stack


def test_the_newest_client(prepared: RunningStack, tmp_path: Path) -> None:
    assert run_contract(Path(sys.executable), prepared.url, prepared.api_key, tmp_path).startswith("3.")


@pytest.mark.parametrize("version", OLDER)
def test_an_older_client(prepared: RunningStack, tmp_path: Path, version: str) -> None:
    assert run_contract(environment_with(version), prepared.url, prepared.api_key, tmp_path) == version
