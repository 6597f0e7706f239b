"""Supervised fine-tuning of a LoRA adapter, top to bottom: fetch, load, build, resume, try, train, save, upload.

LoRA and QLoRA are the same recipe: what is quantized is the model builder's business. The run is a function of the
spec: same spec and same library versions, same losses, however often it was stopped and resumed in between.
"""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, PrinterCallback, set_seed
from trl import SFTConfig, SFTTrainer

from orchestrator.domain.protocol import AttemptSpec, Phase, RemoteFile, Stopped, Succeeded
from orchestrator.objects.layout import adapter_prefix
from workers.adapters import add_tokenizer, describe_lineage, write_card
from workers.builders.chat import load_tokenizer
from workers.builders.data import Collator, build_dataset, build_packed_dataset, load_rows
from workers.builders.loss import can_compute_directly, compute_labelled_loss
from workers.builders.model import (
    MUTATING_INITS,
    adapter_kept_in_float32,
    add_adapter,
    check_plan,
    load_adapter_weights,
    load_base_model,
    precision_arguments,
)
from workers.builders.optimizer import optimizer_arguments
from workers.checkpoints import Restored, fetch_checkpoint, save_adapter
from workers.context import Context, raise_if_stopped
from workers.failures import StopRequested
from workers.gang import count_ranks, get_rank, sum_over_ranks
from workers.malloc import trim_after_layers
from workers.models import resolve_model
from workers.recipes.probe import WorstBatchProbe
from workers.recipes.saving import CheckpointSaver
from workers.recipes.steps import RunLimit, StepCallback, TokenMeter
from workers.transfers import describe_file

logger = logging.getLogger(__name__)

CUDA_TOKENS_MULTIPLE = 8
"""Tensor cores want lengths in eights (NVIDIA's matrix multiplication guide); a CPU gains nothing by padding."""


@dataclass(frozen=True)
class Inputs:
    """What was fetched to this node."""

    model_folder: Path
    training_file: Path
    validation_file: Path | None
    restored: Restored | None
    parent_weights: Path | None
    """Of another job's adapter; None when there are none to start from, or a checkpoint of our own."""


@dataclass(frozen=True)
class Data:
    tokenizer: PreTrainedTokenizerBase
    training: Dataset
    validation: Dataset | None


def run(
    spec: AttemptSpec, context: Context, *, started_at: float, clock: Callable[[], float] = time.monotonic
) -> Succeeded | Stopped:
    """Train one attempt to its end. `started_at` is the process's start by `clock`, which counts seconds.

    Returns how it ended; what a rank that follows another one returns means nothing. Whatever goes wrong is raised, and
    `workers.failures` says what it means.
    """
    limit = RunLimit(spec, started_at=started_at, clock=clock)
    first_step = spec.resume_from.step if spec.resume_from else 0
    optimizer_arguments(spec.plan, spec.device.kind)
    check_plan(spec.plan, spec.device)
    try:
        inputs = fetch_inputs(spec, context)
        raise_if_stopped(context)
        data = load_data(spec, context, inputs)
        raise_if_stopped(context)
        model = build_model(spec, context, inputs)
        raise_if_stopped(context)
    except StopRequested as request:
        return Stopped(reason=request.stop.reason, step=first_step)
    trainable_bytes = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    saver = CheckpointSaver(spec, context, trainable_bytes=trainable_bytes)
    meter = TokenMeter(trained=inputs.restored.state["trained_tokens"] if inputs.restored else 0)
    steps = StepCallback(
        spec,
        context,
        saver=saver,
        limit=limit,
        meter=meter,
        restored=inputs.restored,
        evaluates=data.validation is not None,
    )
    trainer = build_trainer(spec, model, data, steps=steps, meter=meter, restored=inputs.restored)
    try:
        trainer.train(resume_from_checkpoint=str(inputs.restored.folder) if inputs.restored else None)
    except StopRequested as request:
        if request.stop.save:
            context.report(Phase(phase="saving"))
            steps.save(trainer.state)
            saver.finish()
        return Stopped(reason=request.stop.reason, step=trainer.state.global_step)
    except BaseException:
        saver.abandon()
        raise
    saver.abandon()
    if get_rank() > 0:
        return Stopped(reason="shutdown", step=trainer.state.global_step)
    return publish(spec, context, data, model=model, steps=steps, last_step=trainer.state.global_step)


def fetch_inputs(spec: AttemptSpec, context: Context) -> Inputs:
    """Data sets and checkpoint into the attempt's own folder, the base model into the node's cache."""
    context.report(Phase(phase="downloading"))
    work = Path(spec.work_dir)
    training = _fetch_file(spec.training_file, work / "training.jsonl", context)
    validation = _fetch_file(spec.validation_file, work / "validation.jsonl", context) if spec.validation_file else None
    restored = parent_weights = None
    if spec.resume_from is not None:
        restored = fetch_checkpoint(spec.resume_from, work / "resume", context.fetch)
        logger.info("going on from the checkpoint of step %d", restored.step)
    elif spec.parent is not None:
        parent_weights = _fetch_file(spec.parent.weights, work / "parent" / "adapter_model.safetensors", context)
        logger.info("starting from the weights of %s", spec.parent.name)
    folder = resolve_model(spec.model, Path(spec.cache_dir), fetch=context.fetch)
    return Inputs(
        model_folder=folder,
        training_file=training,
        validation_file=validation,
        restored=restored,
        parent_weights=parent_weights,
    )


def load_data(spec: AttemptSpec, context: Context, inputs: Inputs) -> Data:
    """Tokenize both files; only the training file is packed."""
    context.report(Phase(phase="tokenizing"))
    plan = spec.plan
    tokenizer = load_tokenizer(inputs.model_folder)
    rows = load_rows(inputs.training_file, tokenizer, max_tokens=plan.max_seq_tokens)
    training = build_packed_dataset(rows, max_tokens=plan.max_seq_tokens) if plan.packing else build_dataset(rows)
    validation = None
    if inputs.validation_file is not None:
        validation = build_dataset(load_rows(inputs.validation_file, tokenizer, max_tokens=plan.max_seq_tokens))
    logger.info("%d rows, %d tokens to learn", len(rows), sum(row.trained_tokens for row in rows))
    return Data(tokenizer=tokenizer, training=training, validation=validation)


def build_model(spec: AttemptSpec, context: Context, inputs: Inputs) -> PeftModel:
    """The frozen base with an adapter on it, fresh or its parent's. Its random numbers depend on the seed alone."""
    context.report(Phase(phase="loading_model"))
    set_seed(spec.plan.seed)
    base = load_base_model(inputs.model_folder, spec.plan, spec.device)
    model = add_adapter(base, spec.plan, folder=inputs.model_folder, base_name=spec.model.hub_id or spec.model.name)
    if spec.parent is not None and inputs.parent_weights is not None:
        load_adapter_weights(model, inputs.parent_weights, name=spec.parent.name)
    if spec.plan.lora_init in MUTATING_INITS:
        save_adapter(model, _initial_folder(spec))
    trim_after_layers(model, spec.device)
    return model


class CountingTrainer(SFTTrainer):
    """SFTTrainer that tells a meter what each micro-batch holds, and computes the loss on a CPU in its own way."""

    meter: TokenMeter
    direct: bool = False
    hits: tuple[int, int] = (0, 0)
    """(first choices that were right, tokens) since the last log; only when the loss is computed directly."""

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        self.meter.count(inputs)
        return super().training_step(model, inputs, *args, **kwargs)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        found = None
        if self.direct and not return_outputs and not self.aux_loss_enabled:
            inputs["use_cache"] = False
            found = compute_labelled_loss(model, inputs, vocabulary=self.model.config.get_text_config().vocab_size)
        if found is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self.hits = (self.hits[0] + found.correct, self.hits[1] + found.count)
        if num_items_in_batch is None:
            return found.summed / found.count
        # Of the micro-batches of all ranks, whose gradients are then averaged.
        return found.summed * count_ranks() / num_items_in_batch

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.direct and ("loss" in logs or "eval_loss" in logs):
            correct, count = sum_over_ranks(self.hits)
            if count:
                name = "mean_token_accuracy" if "loss" in logs else "eval_mean_token_accuracy"
                logs[name] = correct / count
            self.hits = (0, 0)
        super().log(logs, start_time)


def build_trainer(
    spec: AttemptSpec,
    model: PeftModel,
    data: Data,
    *,
    steps: StepCallback,
    meter: TokenMeter,
    restored: Restored | None,
) -> CountingTrainer:
    plan, device = spec.plan, spec.device
    evaluate_first = restored.state["evaluation_due"] if restored else True
    arguments = SFTConfig(
        output_dir=str(Path(spec.work_dir) / "trainer"),
        num_train_epochs=plan.epochs,
        max_steps=_max_steps(spec, len(data.training)),
        per_device_train_batch_size=plan.micro_batch_rows,
        per_device_eval_batch_size=plan.micro_batch_rows,
        gradient_accumulation_steps=plan.accumulation_steps,
        activation_checkpointing=plan.gradient_checkpointing,
        seed=plan.seed,
        data_seed=plan.seed,
        use_cpu=device.kind == "cpu",
        dataloader_pin_memory=device.kind == "cuda",
        dataset_kwargs={"skip_prepare_dataset": True},  # it is prepared: token ids and labels
        max_length=None,
        save_strategy="no",  # the step callback saves
        eval_strategy="no",  # and says when to evaluate
        eval_on_start=data.validation is not None and evaluate_first,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        ddp_find_unused_parameters=False,  # every part of an adapter takes part in every step
        disable_tqdm=True,
        **optimizer_arguments(plan, device.kind),
        **precision_arguments(plan),
    )
    pad_token_id = data.tokenizer.pad_token_id
    collator = Collator(
        pad_token_id=pad_token_id if pad_token_id is not None else data.tokenizer.eos_token_id or 0,
        multiple=CUDA_TOKENS_MULTIPLE if device.kind == "cuda" else 1,
    )
    with adapter_kept_in_float32(model):
        trainer = CountingTrainer(
            model=model,
            args=arguments,
            data_collator=collator,
            train_dataset=data.training,
            eval_dataset=data.validation,
            processing_class=data.tokenizer,
            callbacks=[steps],
        )
    trainer.meter = meter
    trainer.direct = device.kind == "cpu" and can_compute_directly(model.get_base_model())
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(WorstBatchProbe(trainer, plan, on_done=steps.report_peak))
    return trainer


def publish(
    spec: AttemptSpec, context: Context, data: Data, *, model: PeftModel, steps: StepCallback, last_step: int
) -> Succeeded:
    """Write the adapter's folder and store it; the control plane verifies it and writes its manifest."""
    context.report(Phase(phase="saving"))
    metrics = dict(steps.metrics)
    if steps.eval_loss_before is not None:
        metrics["eval_loss_before"] = steps.eval_loss_before
    folder = Path(spec.work_dir) / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_adapter(model, folder, initial=_initial_folder(spec) if spec.plan.lora_init in MUTATING_INITS else None)
    add_tokenizer(folder, data.tokenizer)
    write_card(folder, spec, steps=last_step, metrics=metrics)
    context.report(Phase(phase="uploading"))
    prefix = adapter_prefix(context.key_prefix)
    files = tuple(context.save(path, prefix + path.name) for path in sorted(folder.iterdir()))
    hashes = {"training_file": _hash_input(spec.training_file, Path(spec.work_dir) / "training.jsonl")}
    if spec.validation_file is not None:
        hashes["validation_file"] = _hash_input(spec.validation_file, Path(spec.work_dir) / "validation.jsonl")
    return Succeeded(
        key_prefix=prefix,
        files=files,
        step=last_step,
        trained_tokens=steps.trained_tokens,
        metrics=metrics,
        lineage=describe_lineage(spec, data.tokenizer, dataset_hashes=hashes),
    )


def _max_steps(spec: AttemptSpec, examples: int) -> int:
    """-1 for 'as many as the epochs give': a larger `max_steps` must not add epochs, as the trainer would."""
    plan = spec.plan
    natural = -(-examples // plan.batch_rows) * plan.epochs
    return plan.max_steps if plan.max_steps is not None and plan.max_steps < natural else -1


def _fetch_file(remote: RemoteFile, target: Path, context: Context) -> Path:
    context.fetch(remote, target)
    return target


def _hash_input(remote: RemoteFile, path: Path) -> str:
    return remote.sha256 or describe_file(path).sha256


def _initial_folder(spec: AttemptSpec) -> Path:
    return Path(spec.work_dir) / "initial"
