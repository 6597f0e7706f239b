"""Fields that LLaMA-Factory and TRL share, because both hand them to Transformers' TrainingArguments.

Names and defaults: transformers 5.23, trl 1.16 and peft 0.21 as installed, 25 November 2026.
"""

from collections.abc import Mapping

from api.cli.foreign.rules import (
    LATER,
    Fate,
    Rule,
    Translation,
    UnfitError,
    each,
    epochs,
    limit,
    lost,
    needless,
    number,
    on_or_auto,
    optimizer,
    scheduler,
    steps,
    switch,
    whole,
)

REPORTED = "each step's figures are kept: tunepool plot, tunepool show"
STORED = "checkpoints and the adapter are kept by the service: tunepool pull"
WHOLE_MODEL = "each device holds the whole model; several of one node train a job with resources.count"
DEVICE = "chosen by what the device can do"
LOADING = "data are loaded and tokenized by the service"
RESUMING = "an interrupted job goes on from its checkpoint by itself"
OPTIMIZER_ARGUMENT = "optimizers run with their usual constants"
NO_METRIC_CHOICE = "the adapter is that of the last step; take an earlier checkpoint by its name (…:ckpt-step-40)"
EIGHT_A_RUN = "evaluations are counted in steps: eight a run, unless training.eval_steps says more"
BY_TIME = "checkpoints are by time: every ten minutes, and the end is always kept"
ADAPTERS = "an adapter is trained and nothing beside it"
ONE_RANK = "all layers have one rank and one alpha"
ONE_RATE = "all weights have one learning rate"
FROM_MODEL = "read from the model"
KERNELS = "kernels are chosen by the service"

TRAINER: dict[str, Rule] = {
    "per_device_train_batch_size": Rule("training.micro_batch_size", whole),
    "gradient_accumulation_steps": Rule("training.gradient_accumulation", whole),
    "learning_rate": Rule("training.learning_rate", number),
    "num_train_epochs": Rule("hyperparameters.n_epochs", epochs),
    "max_steps": Rule("training.max_steps", limit),
    "lr_scheduler_type": Rule("training.scheduler", scheduler),
    "warmup_ratio": Rule("training.warmup_ratio", number),
    "warmup_steps": LATER,
    "weight_decay": Rule("training.weight_decay", number),
    "max_grad_norm": Rule("training.max_grad_norm", number),
    "optim": Rule("training.optimizer", optimizer),
    "gradient_checkpointing": Rule("training.gradient_checkpointing", on_or_auto),
    "seed": Rule("seed", whole),
    "eval_steps": Rule("training.eval_steps", steps),
    "save_steps": Rule("training.checkpoint_steps", steps),
    "eval_strategy": LATER,
    "evaluation_strategy": LATER,
    "save_strategy": LATER,
    **each("logging_steps logging_strategy logging_first_step logging_dir log_level plot_loss", needless(REPORTED)),
    **each("report_to run_name project disable_tqdm do_train do_eval do_predict", needless(REPORTED)),
    **each("include_num_input_tokens_seen include_tokens_per_second eval_on_start", needless(REPORTED)),
    **each("output_dir overwrite_output_dir save_total_limit save_only_model save_safetensors", needless(STORED)),
    **each("push_to_hub hub_model_id hub_strategy hub_private_repo hub_always_push", needless(STORED)),
    **each("hub_token hf_hub_token", needless("the pool's own token is used; take it out of the file")),
    **each("bf16 fp16 tf32 bf16_full_eval fp16_full_eval pure_bf16 use_cpu no_cuda local_rank", needless(DEVICE)),
    **each("dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor", needless(LOADING)),
    **each("dataloader_persistent_workers dataset_num_proc remove_unused_columns", needless(LOADING)),
    **each("resume_from_checkpoint ignore_data_skip", needless(RESUMING)),
    **each("ddp_timeout ddp_backend ddp_find_unused_parameters ddp_bucket_cap_mb", needless(WHOLE_MODEL)),
    **each("deepspeed fsdp fsdp_config", lost(WHOLE_MODEL)),
    "per_device_eval_batch_size": needless("evaluation takes the micro-batch of training"),
    "gradient_checkpointing_kwargs": needless(KERNELS),
    "use_liger_kernel": needless(KERNELS),
    "torch_compile": needless(KERNELS),
    "activation_offloading": lost("activations stay on the device; gradient checkpointing saves memory instead"),
    "auto_find_batch_size": needless("the micro-batch is made smaller by itself when memory runs out"),
    "load_best_model_at_end": lost(NO_METRIC_CHOICE),
    "metric_for_best_model": lost(NO_METRIC_CHOICE),
    "greater_is_better": needless(NO_METRIC_CHOICE),
    "neftune_noise_alpha": lost("no noise is added to embeddings; training.weight_decay and lora.dropout regularize"),
    "label_smoothing_factor": lost("labels are not smoothed", 0, 0.0),
    "lr_scheduler_kwargs": lost("schedules have no further arguments"),
    "optim_args": lost(OPTIMIZER_ARGUMENT),
    "adam_beta1": lost(OPTIMIZER_ARGUMENT, 0.9),
    "adam_beta2": lost(OPTIMIZER_ARGUMENT, 0.999),
    "adam_epsilon": lost(OPTIMIZER_ARGUMENT, 1e-8),
    "group_by_length": lost("rows are shuffled; training.packing saves the padding that this is for"),
    "train_sampling_strategy": lost("rows are shuffled; training.packing saves padding", "random"),
}


def finish_warmup(out: Translation) -> None:
    """Warmup in steps: below one it is a share (Transformers 5), else a share of max_steps where that is known."""
    value = out.source.get("warmup_steps")
    if value is None:
        return
    given, total = out.source.fields["warmup_steps"], out.source.get("max_steps")
    try:
        count = number(value)
    except UnfitError as unfit:
        raise out.source.error("warmup_steps", str(unfit)) from unfit
    if 0 < count < 1:
        out.set("training.warmup_ratio", count, given)
    elif count == 0:
        if not out.has("training.warmup_ratio"):
            out.set("training.warmup_ratio", 0.0, given)
    elif isinstance(total, int) and total > count:
        out.set("training.warmup_ratio", round(count / total, 4), given)
    else:
        out.note("warmup_steps", Fate.LOST, "warmup is a share of all steps: training.warmup_ratio; its 0.03 is used")


def finish_strategies(out: Translation, *, evaluates: str = "no") -> None:
    """Steps mean something with a strategy by steps only; `evaluates` is the strategy when none is given."""
    name = "eval_strategy" if out.source.has("eval_strategy") else "evaluation_strategy"
    evaluates = (out.source.word(name) or evaluates).removeprefix("IntervalStrategy.").lower()
    if evaluates != "steps":
        out.drop("training.eval_steps")
    if evaluates == "epoch":
        out.note(name, Fate.CHANGED, EIGHT_A_RUN)
    saves = out.source.word("save_strategy", "steps")
    if evaluates != "steps":
        out.drop("training.eval_steps")
    if evaluates == "epoch":
        out.note(
            "eval_strategy", Fate.CHANGED, "evaluations are by steps: eight a run, unless training.eval_steps says more"
        )
    if saves != "steps":
        out.drop("training.checkpoint_steps")
    if saves == "epoch":
        out.note("save_strategy", Fate.CHANGED, BY_TIME)


def join_revision(out: Translation, name: str) -> None:
    """A revision of the model becomes part of its name: org/model@revision."""
    revision, model = out.source.word(name), out.fields.get(("model",))
    if model is not None and revision not in {"", "main"}:
        out.set("model", f"{model.value}@{revision}", out.origins[("model",)])


def note_targets(out: Translation, name: str) -> None:
    """Without names PEFT takes those that it knows for the model; we take more."""
    if not out.has("lora.target_modules") and not out.source.has(name):
        out.note(name, Fate.CHANGED, "left out: PEFT takes mostly q_proj and v_proj then, Tunepool every linear layer")


def set_quantization(out: Translation, bits_name: str, type_name: str, double_name: str, *, double: bool) -> None:
    """Four bits, as the fields of these names say; `double` is the tool's default for quantizing the constants."""
    kind, given = out.source.fields.get(type_name), out.source.fields.get(double_name)
    out.set("quantization.type", kind.value if kind else "nf4", kind or out.source.fields[bits_name])
    value = double if given is None else switch(given.value)
    out.set("quantization.double_quant", value, given, "" if given else "the default there")


def set_defaults(out: Translation, *, tool: str, defaults: Mapping[str, object]) -> None:
    """What the tool would have done by itself, where Tunepool would do something else."""
    for place, value in defaults.items():
        out.default(place, value, f"the default of {tool}")
