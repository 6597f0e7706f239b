"""A run that was stopped and resumed is the run that was never stopped: same losses, same weights, to the last bit."""

import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from orchestrator.domain.protocol import AttemptSpec, Metric, Report, Stopped, StopReason, Succeeded
from tests.support.training import (
    make_attempt,
    make_plan,
    make_rows,
    outcomes,
    read_losses,
    read_reports,
    resume_source,
)
from workers.context import LocalContext
from workers.recipes import sft

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@dataclass
class StoppingContext(LocalContext):
    """Asks the run to stop as soon as a step was reported."""

    folder: Path
    stop_at_step: int | None = None
    reason: StopReason = field(default_factory=lambda: StopReason(reason="paused", save=True))

    def __post_init__(self) -> None:
        super().__init__(self.folder, key_prefix="jobs/ftjob-test/attempts/0001-attempt-test/")

    def report(self, report: Report) -> None:
        super().report(report)
        if isinstance(report, Metric) and report.step == self.stop_at_step and "train_loss" in report.values:
            self.stop(self.reason)


def train(spec: AttemptSpec, context: LocalContext) -> Succeeded | Stopped:
    outcome = sft.run(spec, context, started_at=time.monotonic())
    context.report(outcome)
    return outcome


def adapter_of(context: LocalContext, outcome: Succeeded | Stopped) -> dict[str, Any]:
    assert isinstance(outcome, Succeeded)
    return load_file(context.folder / "objects" / outcome.key_prefix / "adapter_model.safetensors")


PLANS = {
    "dropout within an epoch": {"lora_dropout": 0.2, "accumulation_steps": 2},
    "packed rows": {"lora_dropout": 0.2, "packing": True, "max_seq_tokens": 64, "micro_batch_rows": 1},
    "checkpointing, sgd": {"lora_dropout": 0.2, "gradient_checkpointing": True, "optimizer": "sgd"},
}


@pytest.mark.parametrize(
    ("name", "stop_at"), [(name, stop) for name, stop in itertools.product(PLANS, (1, 2)) if name in PLANS]
)
def test_a_resumed_run_repeats_the_uninterrupted_one(tmp_path: Path, tiny_model: Path, name: str, stop_at: int) -> None:
    rows, held_out = make_rows(8), make_rows(4, start=20)
    plan = make_plan(**PLANS[name], eval_steps=2)
    whole = StoppingContext(tmp_path / "whole" / "local")
    spec = make_attempt(tmp_path / "whole", tiny_model, plan=plan, rows=rows, validation_rows=held_out)
    expected = adapter_of(whole, train(spec, whole))

    first = StoppingContext(tmp_path / "first" / "local", stop_at_step=stop_at)
    spec = make_attempt(tmp_path / "first", tiny_model, plan=plan, rows=rows, validation_rows=held_out)
    stopped = train(spec, first)
    assert stopped == Stopped(reason="paused", step=stop_at)

    second = StoppingContext(tmp_path / "second" / "local")
    source = resume_source(first.folder, stop_at)
    spec = make_attempt(
        tmp_path / "second", tiny_model, plan=plan, rows=rows, validation_rows=held_out, resume_from=source
    )
    outcome = train(spec, second)

    for figure in ("train_loss", "grad_norm", "learning_rate", "epoch", "eval_loss"):
        joined = read_losses(first.folder, figure) | read_losses(second.folder, figure)
        assert joined == read_losses(whole.folder, figure), figure
    assert set(read_losses(first.folder)) & set(read_losses(second.folder)) == set()
    adapter = adapter_of(second, outcome)
    assert adapter.keys() == expected.keys()
    assert all((adapter[key] == expected[key]).all() for key in expected)
    assert outcome.trained_tokens == outcomes(whole.folder)[-1]["trained_tokens"]
    assert outcome.lineage["resumed_from_step"] == stop_at


def test_between_two_epochs_the_random_states_go_back_too(tmp_path: Path, tiny_model: Path) -> None:
    plan = make_plan(lora_dropout=0.3)
    whole = StoppingContext(tmp_path / "whole" / "local")
    expected = adapter_of(whole, train(make_attempt(tmp_path / "whole", tiny_model, plan=plan), whole))
    first = StoppingContext(tmp_path / "first" / "local", stop_at_step=4)
    train(make_attempt(tmp_path / "first", tiny_model, plan=plan), first)
    assert read_losses(first.folder, "epoch")[4] == 1.0
    second = StoppingContext(tmp_path / "second" / "local")
    spec = make_attempt(tmp_path / "second", tiny_model, plan=plan, resume_from=resume_source(first.folder, 4))
    adapter = adapter_of(second, train(spec, second))
    assert read_losses(first.folder) | read_losses(second.folder) == read_losses(whole.folder)
    assert all((adapter[key] == expected[key]).all() for key in expected)


def test_checkpoints_by_steps_are_whole_and_none_is_made_of_the_last_step(tmp_path: Path, tiny_model: Path) -> None:
    context = StoppingContext(tmp_path / "local")
    spec = make_attempt(tmp_path, tiny_model, plan=make_plan(checkpoint_steps=4, lora_dropout=0.1))
    train(spec, context)
    stored = read_reports(context.folder, "checkpoint")
    assert [report["step"] for report in stored] == [4]
    assert {file["name"] for file in stored[0]["files"]} == {
        "adapter_model.safetensors", "adapter_config.json", "optimizer.safetensors", "rng.safetensors", "state.json",
    }  # fmt: skip
    folder = context.folder / "objects" / stored[0]["key_prefix"]
    assert {path.name for path in folder.iterdir()} == {file["name"] for file in stored[0]["files"]} | {"manifest.json"}
