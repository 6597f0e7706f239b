"""The line about what takes long: only at a terminal, only after a while, gone at the end."""

import io
import threading

from rich.console import Console

from api.cli.waiting import Waiting, waiting


class Watched(io.StringIO):
    """Tells when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, text: str) -> int:
        size = super().write(text)
        if text.strip():
            self.written.set()
        return size


def a_console(file: io.StringIO, *, terminal: bool = True, width: int = 80) -> Console:
    return Console(file=file, width=width, force_terminal=terminal, color_system=None, legacy_windows=False)


def test_it_appears_after_its_patience_with_figures_and_goes_away() -> None:
    file = Watched()
    with waiting("uploading [x]\x1b.jsonl", console=a_console(file), patience_seconds=0.01) as told:
        told(512 * 1024, 1024 * 1024)
        assert file.written.wait(30)
    text = file.getvalue()
    assert r"uploading [x]\x1b.jsonl" in text
    assert "512.0 KiB of 1.0 MiB" in text
    assert text.endswith("\x1b[?25h\r\x1b[1A\x1b[2K")  # the cursor is back, the line is wiped


def test_what_is_quick_is_not_told_at_all() -> None:
    file = Watched()
    with waiting("submitting", console=a_console(file), patience_seconds=3600) as told:
        told(1, 2)
    assert file.getvalue().strip() == ""


def test_nothing_is_written_where_nobody_looks() -> None:
    file = Watched()
    with waiting("submitting", console=a_console(file, terminal=False), patience_seconds=0) as told:
        told(1, 2)
    assert file.getvalue() == ""


def test_it_never_appears_after_it_was_closed() -> None:
    file = Watched()
    line = Waiting("x", a_console(file), patience_seconds=3600)
    line.close()
    line._appear()
    assert file.getvalue().strip() == ""


def test_a_narrow_terminal_keeps_the_figures() -> None:
    file = Watched()
    with waiting("uploading " + 60 * "x", console=a_console(file, width=50), patience_seconds=0.01) as told:
        told(1024, 2048)
        assert file.written.wait(30)
    lines = file.getvalue().replace("\r", "\n").splitlines()
    assert any("1.0 KiB of 2.0 KiB" in line for line in lines)
