"""Commands that make files or draw figures, and shell completion, run in this process against a scripted server."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina

from api.cli.jobfile import read_jobfile
from tests.support.commands import Tunepool
from tests.support.demo_pool import JOBS, job_id, serve_pool
from tests.support.imported import example, write_rows
from tests.support.stub_api import StubApi, as_list

ROW = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StubApi]:
    """Commands run in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    with StubApi() as stub, stamina.set_testing(True, attempts=2, cap=True):
        monkeypatch.setenv("TUNEPOOL_URL", stub.url)
        monkeypatch.setenv("TUNEPOOL_API_KEY", "tp-key")
        serve_pool(stub)
        yield stub


def test_top_into_a_pipe_is_drawn_once_and_as_json(api: StubApi, tunepool: Tunepool) -> None:
    done = tunepool("top")
    assert done.code == 0
    assert "meta-llama/Llama-3.1-8B" in done.out
    assert "\x1b" not in done.out
    found = json.loads(tunepool("top", "--json").out)
    assert [job["status"] for job in found["jobs"]][:2] == ["running", "queued"]
    assert found["pool"]["devices"][0]["id"] == "gpu-1/cuda:0"


def test_what_runs_is_found_however_old_it_is(api: StubApi, tunepool: Tunepool) -> None:
    api.on("GET", JOBS, as_list(has_more=True))
    found = json.loads(tunepool("top", "--json").out)
    assert [job["id"] for job in found["jobs"]] == [job_id(1)]
    assert found["jobs"][0]["train_loss"] == pytest.approx(1.325, abs=1e-3)


def test_plots_share_a_canvas_or_are_data(api: StubApi, tunepool: Tunepool) -> None:
    done = tunepool("plot", job_id(1), "-m", "loss", "-m", "learning_rate")
    assert done.out.startswith("loss by step   * train loss 1.325   o eval loss 1.525\n")
    assert "learning rate by step" in done.out
    api.on("GET", f"{JOBS}/{job_id(1)}/metrics", as_list())
    assert "no figures of train_loss" in tunepool("plot", job_id(1)).out


def test_plotted_data_for_programs(api: StubApi, tunepool: Tunepool) -> None:
    found = json.loads(tunepool("plot", job_id(1), "--json", "--x", "time").out)
    curve = found[0]["metrics"]["train_loss"]
    assert (len(curve["steps"]), curve["steps"][0], curve["seconds"][:2]) == (80, 1, [0.0, 1.0])


def test_a_metric_that_is_not_there_is_told_with_those_that_are(api: StubApi, tunepool: Tunepool) -> None:
    done = tunepool("plot", job_id(1), "--metric", "los")
    assert (done.code, done.out) == (3, "")
    assert "hint: there are: loss, eval_loss, learning_rate, tokens_per_second, train_loss" in done.err


def test_init_takes_options_and_overwrites_nothing(api: StubApi, tunepool: Tunepool, tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "train.jsonl", ROW, ROW)
    asked = ("init", "jobs/job.yaml", "--model", "tiny", "--data", "data/train.jsonl", "--for", "try")
    done = tunepool(*asked, "--json")
    assert json.loads(done.out)["rows"] == 2
    made = tmp_path / "jobs" / "job.yaml"
    assert read_jobfile(made).fields["training_file"] == str(tmp_path / "data" / "train.jsonl")
    made.write_text("mine")
    refused = tunepool(*asked)
    assert (refused.code, made.read_text()) == (6, "mine")
    assert "hint: --force overwrites it" in refused.err
    assert tunepool(*asked, "--force").code == 0
    assert list(made.parent.iterdir()) == [made]


def test_init_needs_somebody_to_ask(api: StubApi, tunepool: Tunepool) -> None:
    done = tunepool("init", "--model", "tiny", "--json")
    assert done.code == 2
    assert done.err == "error: nobody can be asked here: give --data, --for\n"
    done = tunepool("init", "--model", "m", "--data", "none.jsonl", "--for", "task")
    assert done.err == "error: there is no file none.jsonl\n"


def test_init_tells_what_is_wrong_with_the_data(api: StubApi, tunepool: Tunepool, tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", {"instruction": "x", "output": "y"})
    done = tunepool("init", "--model", "tiny", "--data", "train.jsonl", "--for", "task")
    assert done.code == 0
    assert "note: train.jsonl: line 1" in done.err


def test_import_writes_a_job_and_lists_what_is_lost(api: StubApi, tunepool: Tunepool, tmp_path: Path) -> None:
    example("axolotl_qlora.yml", tmp_path)
    done = tunepool("import", "axolotl_qlora.yml")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == "job.yaml: a job from axolotl_qlora.yml, a file for Axolotl"
    assert any(line.startswith("46  neftune_noise_alpha: 5  no noise is added to embeddings") for line in lines)
    text = (tmp_path / "job.yaml").read_text()
    assert "r: 32                             # lora_r" in text
    assert "#   neftune_noise_alpha: 5" in text
    assert read_jobfile(tmp_path / "job.yaml").fields["lora"]["r"] == 32
    assert tunepool("import", "axolotl_qlora.yml").code == 6


def test_a_command_line_that_is_pasted_is_imported(
    tunepool: Tunepool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = "trl sft --model_name_or_path a/b \\\n --use_peft --lora_r 4 --dataset_name x/y\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(command))
    done = tunepool("import", "-")
    assert done.code == 0
    assert '2  dataset_name: "x/y"' in done.out
    assert read_jobfile(tmp_path / "job.yaml").fields["lora"]["r"] == 4


def test_import_as_json_has_every_note_with_its_line(api: StubApi, tunepool: Tunepool, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    write_rows(tmp_path / "support.jsonl", *[{"conversations": turns}] * 20)
    example("axolotl_qlora.yml", tmp_path)
    done = tunepool("import", "axolotl_qlora.yml", "-o", "new.yaml", "--convert-data", "--json")
    found = json.loads(done.out)
    assert (found["from"], found["fields"]["training_file"]) == ("axolotl", "new.train.jsonl")
    note = {"field": "bf16", "value": "auto", "line": 41, "fate": "needless", "why": "chosen by what the device can do"}
    assert note in found["notes"]


def test_import_says_which_tool_when_it_cannot_tell(api: StubApi, tunepool: Tunepool, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("seed: 1\nlearning_rate: 1\n")
    done = tunepool("import", "x.yaml")
    assert (done.code, done.err.splitlines()[1]) == (2, "hint: --from axolotl|llamafactory|trl says what it is")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_those_of_the_shell(tunepool: Tunepool, shell: str) -> None:
    done = tunepool("completion", shell)
    assert done.code == 0
    assert "_TUNEPOOL_COMPLETE=complete_" + shell in done.out


def test_the_shell_completes_commands_and_job_ids(api: StubApi) -> None:
    def complete(line: str) -> str:
        program = "import sys; sys.argv = ['tunepool']; from api.cli.main import app; app(prog_name='tunepool')"
        words = {"_TUNEPOOL_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
        env = {**os.environ, **words}
        return subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=env, check=False
        ).stdout

    assert '"import"' in complete("tunepool imp")
    found = complete("tunepool show ftjob-")
    assert job_id(1) in found
    assert "\x1b" not in found
    assert "\u202e" not in found
