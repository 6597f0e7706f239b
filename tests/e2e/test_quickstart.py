"""The quickstart and the README's first minute, word for word: a real stack, a real model, real training.

And the numbers of choosing.md, which the estimator has to give again.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from api.stack import control
from api.stack.folder import open_folder
from tests.support.pages import ROOT, PageRunner

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]
GIB = 2**30


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "quickstart.md"], ids=lambda page: page.name)
def test_a_new_user_gets_from_nothing_to_an_adapter(page: Path, real_model: Path, tmp_path: Path) -> None:
    """`real_model` says whether the demo's model is there at all; the page makes its own."""
    assert real_model.is_dir()
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    try:
        environment = {
            "NO_COLOR": "1",
            "OMP_NUM_THREADS": "1",
        }  # threads of torch wait for each other on a busy machine
        PageRunner(tmp_path, environment, in_process=False).run(page)
        assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    finally:
        if (tmp_path / ".tunepool").is_dir():
            control.stop(open_folder(tmp_path / ".tunepool"))


def test_the_numbers_of_choosing_are_the_estimators() -> None:
    with (ROOT / "examples" / "estimator" / "requests.jsonl").open() as requests:
        done = subprocess.run(
            [sys.executable, "-m", "workers.estimator"], stdin=requests, capture_output=True, text=True, check=True
        )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    told = read_tables((ROOT / "docs" / "choosing.md").read_text())
    found = {answer["id"]: f"{answer['peak_device_bytes'] / GIB:.1f}" for answer in answers}
    assert found == told


def read_tables(text: str) -> dict[str, str]:
    """GiB by request: the rows of a model have a column for each quantization, those of a change have one figure."""
    told = {}
    for name, *figures in re.findall(r"^\| ([^|]+) \| ([\d.]+) \|(?: ([\d.]+) \| ([\d.]+) \|)?$", text, re.MULTILINE):
        if figures[1]:
            told |= {f"{name} {kind}": figure for kind, figure in zip(("none", "int8", "nf4"), figures, strict=True)}
        else:
            told[name] = figures[0]
    return told
