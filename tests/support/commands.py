"""The command line in this process, against a scripted server."""

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import stamina

from api.cli.main import main
from tests.support.stub_api import StubApi


class Done(NamedTuple):
    code: int
    out: str
    err: str


Tunepool = Callable[..., Done]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubApi]:
    with StubApi() as stub, stamina.set_testing(True, attempts=2, cap=True):
        monkeypatch.setenv("TUNEPOOL_URL", stub.url)
        monkeypatch.setenv("TUNEPOOL_API_KEY", "tp-key")
        yield stub


@pytest.fixture
def tunepool(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tunepool:
    """Run the command in this process, as the installed script does."""

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["tunepool", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return Done(int(code or 0), out, err)

    return run
