"""The terminal against the real API, with a scripted worker: from a file of another tool to a downloaded adapter."""

from pathlib import Path

import pytest

from orchestrator.domain.protocol import Peak
from tests.support.imported import write
from tests.support.openai_clients import tickets
from tests.support.servers import ApiServer
from tests.support.terminals import Terminal
from tests.support.trainers import Trainer

GIB = 2**30
FOREIGN = """\
base_model: tiny
adapter: lora
lora_r: 8
lora_alpha: 16
lora_target_linear: true
datasets:
  - path: tickets.jsonl
    type: chat_template
micro_batch_size: 2
gradient_accumulation_steps: 2
num_epochs: 2
sequence_len: 64
learning_rate: 2e-4
wandb_project: tickets
"""


@pytest.fixture
def server(api_server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> ApiServer:
    monkeypatch.setenv("TUNEPOOL_URL", api_server.url)
    monkeypatch.setenv("TUNEPOOL_API_KEY", api_server.admin_key)
    return api_server


def run(*arguments: str, folder: Path, columns: int = 100) -> str:
    """What a command showed at a terminal; it has to succeed."""
    with Terminal(arguments, folder=folder, columns=columns, lines=60) as terminal:
        assert terminal.end() == 0, terminal.text
        return terminal.text


def test_an_imported_job_is_submitted_watched_plotted_and_pulled(server: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "tickets.jsonl").write_bytes(tickets(40))
    write(tmp_path, FOREIGN, "axolotl.yml")
    server.step()
    assert "a file for Axolotl" in run("import", "axolotl.yml", folder=tmp_path)
    assert "tiny" in run("estimate", "job.yaml", folder=tmp_path)
    submitted = run("submit", "job.yaml", folder=tmp_path)
    job_id = submitted.split()[-2]
    assert job_id.startswith("ftjob-")

    trainer = Trainer(server, job_id)
    trainer.begin()
    trainer.train(1, 7)
    trainer.report(Peak(allocated_bytes=0, reserved_bytes=0, device_bytes=GIB // 2))
    server.step()
    top = run("top", "--once", folder=tmp_path)
    assert "1 of 1 devices online" in top
    assert job_id[-8:] in top
    assert "training" in top
    shown = run("show", job_id[-8:], folder=tmp_path)
    assert "7 of 20 steps" in shown
    assert "measured of predicted" in shown
    assert "on the device" in shown
    assert "reserved" in shown
    assert "train loss" in run("plot", "last", folder=tmp_path)

    trainer.succeed()
    assert "succeeded" in run("show", job_id, "--follow", folder=tmp_path)
    assert "all checksums match" in run("pull", "last", "adapter", folder=tmp_path)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_init_knows_the_models_of_the_pool(server: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(tickets(12))
    with Terminal(["init"], folder=tmp_path) as terminal:
        terminal.wait_for("base models of this pool: tiny")
        terminal.press("\r")
        terminal.wait_for("Which training file?")
        terminal.press("\r")
        terminal.wait_for("What is it for?")
        terminal.press("try\r")
        assert terminal.end() == 0
    server.step()
    assert run("submit", "job.yaml", folder=tmp_path).split()[-1] == "validating_files"
