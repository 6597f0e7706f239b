"""`tunepool` run in the test's own process, as the installed script runs it."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from api.cli.main import main


class Done(NamedTuple):
    code: int
    out: str
    err: str


Tunepool = Callable[..., Done]


@pytest.fixture
def tunepool(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tunepool:
    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["tunepool", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return Done(int(code or 0), out, err)

    return run
