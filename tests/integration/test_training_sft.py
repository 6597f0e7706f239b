"""The recipe on a tiny model: it learns, in every form of adapter and base, and what comes out loads in stock PEFT."""

import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from orchestrator.domain.failures import FailureKind
from orchestrator.domain.protocol import DeviceGrant, Stopped, StopReason, Succeeded
from tests.support.training import (
    ObservedContext,
    make_attempt,
    make_plan,
    make_rows,
    read_adapter,
    read_losses,
    read_reports,
    train,
)
from workers.adapters import ALLOWED_FILES
from workers.builders.data import Collator, build_dataset, load_rows
from workers.builders.model import add_adapter, load_base_model
from workers.failures import BadDataError, DivergedError, UserError, classify

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning:peft.*"),
    pytest.mark.usefixtures("one_thread"),
]


def adapter_folder(context: ObservedContext, outcome: Succeeded) -> Path:
    return context.folder / "objects" / outcome.key_prefix


def test_the_loss_falls_and_every_step_reports(tmp_path: Path, tiny_model: Path) -> None:
    context = ObservedContext(tmp_path / "local")
    plan = make_plan(epochs=5, eval_steps=10, learning_rate=2e-2)
    spec = make_attempt(tmp_path, tiny_model, plan=plan, rows=make_rows(12), validation_rows=make_rows(4, start=12))
    outcome = train(spec, context)
    assert isinstance(outcome, Succeeded)
    losses, held_out = read_losses(context.folder), read_losses(context.folder, "eval_loss")
    assert sorted(losses) == list(range(1, 31))
    assert losses[30] < 0.7 * losses[1]
    assert sorted(held_out) == [0, 10, 20, 30]
    assert held_out[30] < 0.7 * held_out[0]
    assert outcome.metrics["eval_loss"] == held_out[30]
    assert outcome.metrics["eval_loss_before"] == held_out[0]
    for name in ("learning_rate", "grad_norm", "tokens_per_second", "epoch", "step_seconds"):
        figures = read_losses(context.folder, name)
        assert sorted(figures) == sorted(losses)
        assert all(math.isfinite(figure) for figure in figures.values())
    progress = read_reports(context.folder, "progress")
    assert [report["step"] for report in progress] == list(range(31))
    assert {report["total_steps"] for report in progress} == {30}
    assert progress[-1]["trained_tokens"] == outcome.trained_tokens
    assert read_reports(context.folder, "peak")[-1]["device_bytes"] > 50 * 1024**2
    phases = [report["phase"] for report in read_reports(context.folder, "phase")]
    assert phases[:5] == ["downloading", "tokenizing", "loading_model", "evaluating", "training"]
    assert phases[-2:] == ["saving", "uploading"]


def test_trained_tokens_are_the_tokens_with_loss(tmp_path: Path, tiny_model: Path) -> None:
    context = ObservedContext(tmp_path / "local")
    spec = make_attempt(tmp_path, tiny_model, plan=make_plan(epochs=3))
    outcome = train(spec, context)
    assert isinstance(outcome, Succeeded)
    rows = load_rows(tmp_path / "train.jsonl", AutoTokenizer.from_pretrained(tiny_model), max_tokens=128)
    assert outcome.trained_tokens == 3 * sum(row.trained_tokens for row in rows)


def test_what_comes_out_is_complete_and_says_where_it_came_from(tmp_path: Path, tiny_model: Path) -> None:
    context = ObservedContext(tmp_path / "local")
    spec = make_attempt(tmp_path, tiny_model, plan=make_plan(max_steps=2))
    outcome = train(spec, context)
    assert isinstance(outcome, Succeeded)
    folder = adapter_folder(context, outcome)
    assert {path.name for path in folder.iterdir()} == {file.name for file in outcome.files}
    assert {file.name for file in outcome.files} <= ALLOWED_FILES
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= {
        file.name for file in outcome.files
    }
    assert "`ftjob-test`" in (folder / "README.md").read_text()
    assert str(tiny_model) not in (folder / "adapter_config.json").read_text()
    lineage = outcome.lineage
    assert lineage["base_model"] == {"name": "tiny", "kind": "path", "revision": "test"}
    assert lineage["dataset_sha256"] == {"training_file": spec.training_file.sha256}
    assert len(lineage["tokenizer_sha256"]) == len(lineage["chat_template_sha256"]) == 64
    assert lineage["plan"] == spec.plan.model_dump()
    assert lineage["seed"] == 7
    assert lineage["versions"]["torch"] == torch.__version__.split("+")[0] or lineage["versions"]["torch"]


FORMS: dict[str, dict[str, Any]] = {
    "bfloat16 base": {"compute_dtype": "bfloat16"},
    "nf4": {"quantization": "nf4", "compute_dtype": "bfloat16"},
    "fp4, single quantization": {"quantization": "fp4", "double_quant": False},
    "int8": {"quantization": "int8", "compute_dtype": "bfloat16"},
    "nf4, recomputed": {"quantization": "nf4", "compute_dtype": "bfloat16", "gradient_checkpointing": True},
    "nf4, loftq": {"quantization": "nf4", "lora_init": "loftq"},
    "nf4, dora": {"quantization": "nf4", "use_dora": True},
    "rslora, gaussian": {"use_rslora": True, "lora_init": "gaussian"},
    "dora": {"use_dora": True},
    "pissa": {"lora_init": "pissa"},
    "olora": {"lora_init": "olora"},
    "biases": {"lora_bias": "all"},
    "two modules": {"lora_target_modules": ("q_proj", "v_proj")},
    "adafactor, cosine": {"optimizer": "adafactor", "scheduler": "cosine"},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_learns_and_loads_in_stock_peft(tmp_path: Path, tiny_model: Path, form: str) -> None:
    context = ObservedContext(tmp_path / "local")
    plan = make_plan(**FORMS[form], epochs=3, learning_rate=2e-2)
    held_out = make_rows(4)
    outcome = train(make_attempt(tmp_path, tiny_model, plan=plan, validation_rows=held_out), context)
    assert isinstance(outcome, Succeeded)
    assert outcome.metrics["eval_loss"] < 0.93 * outcome.metrics["eval_loss_before"]
    adapter = read_adapter(context, outcome)
    assert {tensor.dtype.name for tensor in adapter.values()} == {"float32"}

    base = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(adapter_folder(context, outcome))
    rows = load_rows(tmp_path / "held-out.jsonl", tokenizer, max_tokens=128)
    batch = Collator(pad_token_id=0)(list(build_dataset(rows)))
    with torch.no_grad():
        before = base(**batch)
        adapted = PeftModel.from_pretrained(base, str(adapter_folder(context, outcome))).eval()
        after = adapted(**batch)
    assert not torch.allclose(before.logits, after.logits)
    assert float(after.loss) < 0.93 * float(before.loss)
    # The base is quantized or rounded in training and whole here, so the losses are near, not equal.
    exact = plan.quantization == "none" and plan.compute_dtype == "float32"
    assert float(after.loss) == pytest.approx(outcome.metrics["eval_loss"], rel=0.02 if exact else 0.15)


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_evaluating_changes_nothing_of_the_training(tmp_path: Path, tiny_model: Path, quantization: str) -> None:
    """Neither the random numbers nor the base's weights: the losses are those of a run without a validation file."""
    losses = []
    for held_out in (None, make_rows(3, start=20)):
        context = ObservedContext(tmp_path / str(held_out is None) / "local")
        plan = make_plan(quantization=quantization, compute_dtype="bfloat16", lora_dropout=0.2, eval_steps=1)
        folder = tmp_path / str(held_out is None)
        train(make_attempt(folder, tiny_model, plan=plan, validation_rows=held_out), context)
        losses.append([read_losses(context.folder, name) for name in ("train_loss", "grad_norm")])
    assert losses[0] == losses[1]


def test_loftq_starts_nearer_to_the_whole_model(tiny_model: Path) -> None:
    """The effective weights with LoftQ's adapter are nearer to the unquantized ones than the quantized base alone."""
    device = DeviceGrant(device_id="n/cpu:0", kind="cpu", index=0, device_bytes=1, reserved_bytes=1)
    whole = AutoModelForCausalLM.from_pretrained(tiny_model)
    distances = []
    for init in ("default", "loftq"):
        plan = make_plan(quantization="nf4", lora_init=init, lora_r=8, lora_alpha=16)
        model = add_adapter(load_base_model(tiny_model, plan, device), plan, folder=tiny_model, base_name="tiny")
        layer = model.base_model.model.model.layers[0].self_attn.q_proj
        base = layer.get_base_layer().weight
        effective = dequantize_4bit(base.data, base.quant_state) + layer.get_delta_weight("default")
        distances.append(float((effective.detach() - whole.model.layers[0].self_attn.q_proj.weight.detach()).norm()))
    assert distances[1] < 0.9 * distances[0]


def test_packing_trains_on_the_same_loss(tmp_path: Path, tiny_model: Path) -> None:
    """The whole file as one batch: packed or not, the first loss is the mean over the same tokens."""
    losses = []
    for packing in (False, True):
        context = ObservedContext(tmp_path / str(packing) / "local")
        plan = make_plan(packing=packing, micro_batch_rows=8, max_steps=1, max_seq_tokens=100)
        train(make_attempt(tmp_path / str(packing), tiny_model, plan=plan, rows=make_rows(8)), context)
        losses.append(read_losses(context.folder)[1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_max_steps_shortens_a_run_and_never_lengthens_it(tmp_path: Path, tiny_model: Path) -> None:
    for number, (max_steps, expected) in enumerate([(3, 3), (500, 8)]):
        context = ObservedContext(tmp_path / str(number) / "local")
        spec = make_attempt(tmp_path / str(number), tiny_model, plan=make_plan(max_steps=max_steps))
        outcome = train(spec, context)
        assert isinstance(outcome, Succeeded)
        assert outcome.step == expected == spec.plan.total_steps(8)


def test_a_run_that_diverges_stops_and_keeps_no_spoilt_checkpoint(tmp_path: Path, tiny_model: Path) -> None:
    context = ObservedContext(tmp_path / "local")
    plan = make_plan(learning_rate=1e30, max_grad_norm=0.0, optimizer="sgd", epochs=50, checkpoint_steps=1)
    with pytest.raises(DivergedError) as caught:
        train(make_attempt(tmp_path, tiny_model, plan=plan), context)
    assert classify(caught.value).failure is FailureKind.DIVERGED
    finite = read_losses(context.folder, "grad_norm")
    stored = [report["step"] for report in read_reports(context.folder, "checkpoint")]
    assert all(step in finite for step in stored)
    assert max(stored, default=0) <= max(finite)


def test_a_bad_row_is_named_before_the_model_is_loaded(tmp_path: Path, tiny_model: Path) -> None:
    context = ObservedContext(tmp_path / "local")
    rows = [*make_rows(3), {"messages": [{"role": "user", "content": "no answer"}]}]
    with pytest.raises(BadDataError, match="line 4"):
        train(make_attempt(tmp_path, tiny_model, rows=rows), context)
    assert [report["phase"] for report in read_reports(context.folder, "phase")] == ["downloading", "tokenizing"]


def test_modules_that_the_model_lacks_are_the_users_error(tmp_path: Path, tiny_model: Path) -> None:
    spec = make_attempt(tmp_path, tiny_model, plan=make_plan(lora_target_modules=("c_attn",)))
    with pytest.raises(UserError, match="c_attn"):
        train(spec, ObservedContext(tmp_path / "local"))


@pytest.mark.parametrize("save", [True, False])
def test_a_stop_is_obeyed_within_one_step(tmp_path: Path, tiny_model: Path, save: bool) -> None:
    reason = StopReason(reason="cancelled", save=save)
    context = ObservedContext(tmp_path / "local", stop_at_step=3, reason=reason)
    spec = make_attempt(tmp_path, tiny_model, plan=make_plan(epochs=50))
    assert train(spec, context) == Stopped(reason="cancelled", step=3)
    assert max(read_losses(context.folder)) == 3
    assert [report["step"] for report in read_reports(context.folder, "checkpoint")] == ([3] if save else [])


def test_a_stop_before_the_first_step_saves_nothing(tmp_path: Path, tiny_model: Path) -> None:
    context = ObservedContext(tmp_path / "local")
    context.stop(StopReason(reason="paused", save=True))
    assert train(make_attempt(tmp_path, tiny_model), context) == Stopped(reason="paused", step=0)
    assert not (context.folder / "objects").exists()


def test_the_run_limit_stops_in_time_with_a_checkpoint(tmp_path: Path, tiny_model: Path) -> None:
    """The clock stands still until step 3 is done, then only two seconds of the limit are left: too few for a
    checkpoint and a step more."""
    now = [0.0]

    def advance(step: int) -> None:
        now[0] = 599.0 if step == 3 else 0.0

    context = ObservedContext(tmp_path / "local", on_step=advance)
    spec = make_attempt(
        tmp_path, tiny_model, plan=make_plan(epochs=50), run_limit_seconds=600, run_limit_reason="budget_exceeded"
    )
    outcome = train(spec, context, started_at=0.0, clock=lambda: now[0])
    assert outcome == Stopped(reason="budget_exceeded", step=3)
    assert [report["step"] for report in read_reports(context.folder, "checkpoint")] == [3]


def test_a_limit_that_is_used_up_by_loading_trains_nothing(tmp_path: Path, tiny_model: Path) -> None:
    context = ObservedContext(tmp_path / "local")
    spec = make_attempt(tmp_path, tiny_model, run_limit_seconds=5, run_limit_reason="timeout")
    assert train(spec, context, started_at=time.monotonic() - 6) == Stopped(reason="timeout", step=0)
    assert not read_losses(context.folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_model_learns_in_nf4(tmp_path: Path, real_model: Path) -> None:
    """SmolLM2-135M-Instruct, QLoRA with double quantization, a few steps of a few rows."""
    context = ObservedContext(tmp_path / "local")
    plan = make_plan(
        quantization="nf4", compute_dtype="bfloat16", learning_rate=1e-3, lora_r=8, lora_alpha=16, epochs=3
    )
    spec = make_attempt(tmp_path, real_model, plan=plan, validation_rows=make_rows(4))
    outcome = train(spec, context)
    assert isinstance(outcome, Succeeded)
    assert outcome.metrics["eval_loss"] < 0.6 * outcome.metrics["eval_loss_before"]
    tokenizer = AutoTokenizer.from_pretrained(adapter_folder(context, outcome))
    base = AutoModelForCausalLM.from_pretrained(real_model, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, str(adapter_folder(context, outcome))).eval()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Say the colour blue."}], add_generation_prompt=True, return_tensors="pt",
        return_dict=True,
    )  # fmt: skip
    answer = adapted.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True).strip() == "It is blue."
