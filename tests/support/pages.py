"""Documentation pages as programs: their fenced blocks, and what runs them.

The words behind a block's language say what a test does with it:

    ```sh run               run it, with the page's folder as the working folder; `exit=2` where it must fail so
    ```python run           run it in the page's own namespace
    ```yaml                 check it as (a part of) a job file
    ```yaml file=job.yaml   write it first, too; works for any language
    ```sh not-run="GPU"     it cannot be run here, for one of REASONS
    ```text, ```json        shown, not run; JSON has to be JSON
"""

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from api.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
REASONS = {
    "GPU": "needs an NVIDIA GPU",
    "cluster": "needs other machines",
    "production": "needs a PostgreSQL server or a bucket of yours",
    "this shell": "changes the reader's own shell or home",
    "checkout": "works on the checkout itself and takes minutes; `make` has it",
    "fragment": "a file of another tool",
    "forever": "goes on until it is ended",
    "minutes": "takes minutes; a slow test runs it and compares the numbers of the page",
}
FENCE = re.compile(r"^```")
PLAIN = re.compile(r"[^|&;<>$`(){}*?~]+")
"""A command without anything that only a shell understands."""


@dataclass(frozen=True)
class Block:
    """`line` is where its first line of text is, from 1; `options` are the words behind the language."""

    page: Path
    line: int
    language: str
    options: dict[str, str]
    text: str

    @property
    def is_run(self) -> bool:
        return "run" in self.options

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def all_pages() -> list[Path]:
    """Every page that a reader meets; the reference has tests of its own."""
    found = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [page for page in found if page.is_file()]


def read_blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order. A fence that is not closed is an error."""
    blocks: list[Block] = []
    opened: tuple[int, str] | None = None
    kept: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if not FENCE.match(line):
            kept.append(line)
        elif opened is None:
            opened, kept = (number + 1, line.removeprefix("```").strip()), []
        else:
            language, options = _read_info(opened[1])
            blocks.append(Block(page, opened[0], language, options, "\n".join(kept) + "\n"))
            opened = None
    assert opened is None, f"{page}: a block is not closed"
    return blocks


def _read_info(info: str) -> tuple[str, dict[str, str]]:
    language, *words = shlex.split(info) or [""]
    pairs = (word.partition("=") for word in words)
    return language, {name: value for name, _, value in pairs}


@dataclass
class PageRunner:
    """Runs a page's blocks in `folder`. `environment` names the pool.

    `in_process` saves the start of each interpreter. Without it each block is a process of its own, and asks the stack
    that runs in the folder once there is one, as its reader would by what `tunepool up` printed.
    """

    folder: Path
    environment: dict[str, str]
    in_process: bool = True
    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "__page__"})

    def run(self, page: Path) -> None:
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            with mock.patch.dict(os.environ, self.environment):
                for block in read_blocks(page):
                    self._run_block(block)
        finally:
            os.chdir(before)

    def _run_block(self, block: Block) -> None:
        if "file" in block.options:
            path = self.folder / block.options["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        if block.is_run and block.language == "python":
            self._run_python(block)
        elif block.is_run:
            code, said = self._run_shell(block.text)
            assert code == int(block.options.get("exit", "0")), f"{block.place}: exit code {code}\n{said}"

    def _run_python(self, block: Block) -> None:
        if not self.in_process:
            code, said = self._spawn([sys.executable, "-c", block.text])
            assert code == 0, f"{block.place}: exit code {code}\n{said}"
            return
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile("\n" * (block.line - 1) + block.text, str(block.page), "exec"), self.namespace)

    def _run_shell(self, text: str) -> tuple[int, str]:
        commands = [shlex.split(line, comments=True) for line in text.splitlines()]
        commands = [command for command in commands if command]
        if self.in_process and PLAIN.fullmatch(text) and all(command[0] == "tunepool" for command in commands):
            return self._run_commands(commands)
        return self._spawn(["bash", "-euo", "pipefail", "-c", text])

    def _spawn(self, command: list[str]) -> tuple[int, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        local = self.folder / ".tunepool" / "client.json"
        found = json.loads(local.read_text()) if local.is_file() and not self.in_process else {}
        named = {"TUNEPOOL_URL": found["url"], "TUNEPOOL_API_KEY": found["api_key"]} if found else {}
        done = subprocess.run(
            command,
            env={**os.environ, "PATH": path, **named},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def _run_commands(self, commands: list[list[str]]) -> tuple[int, str]:
        """As the shell would: up to the first that fails."""
        said = io.StringIO()
        code = 0
        for command in commands:
            with (
                mock.patch.object(sys, "argv", command),
                contextlib.redirect_stdout(said),
                contextlib.redirect_stderr(said),
            ):
                try:
                    main()
                except SystemExit as ended:
                    code = int(ended.code or 0)
            if code:
                break
        return code, said.getvalue()
