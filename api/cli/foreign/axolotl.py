"""Axolotl's YAML as a job. Names and defaults: its configuration schema of 24 July 2026 (commit 067b021)."""

from collections.abc import Iterator
from typing import Any

from api.cli.foreign.conversion import ROLES, Kind, Shape
from api.cli.foreign.data import Source, Target, place_data
from api.cli.foreign.rules import (
    LATER,
    Fate,
    Rule,
    Translation,
    each,
    epochs,
    limit,
    lora_init,
    lost,
    modules,
    needless,
    number,
    on_or_auto,
    optimizer,
    scheduler,
    steps,
    switch,
    whole,
)
from api.cli.foreign.trainer import (
    ADAPTERS,
    BY_TIME,
    DEVICE,
    EIGHT_A_RUN,
    FROM_MODEL,
    KERNELS,
    LOADING,
    NO_METRIC_CHOICE,
    ONE_RANK,
    ONE_RATE,
    OPTIMIZER_ARGUMENT,
    REPORTED,
    RESUMING,
    STORED,
    WHOLE_MODEL,
    finish_strategies,
    finish_warmup,
    join_revision,
    note_targets,
    set_defaults,
    set_quantization,
)

MARKS = frozenset(
    {
        *("base_model", "sequence_len", "micro_batch_size", "num_epochs", "adapter", "sample_packing", "lora_r"),
        *("lora_target_linear", "val_set_size", "datasets", "lr_scheduler", "load_in_4bit", "flash_attention"),
        *("saves_per_epoch", "evals_per_epoch", "optimizer"),
    }
)
"""Fields that tell this format from others."""
TEMPLATE = "rows are rendered with the model's own chat template"
ATTENTION = "the fastest attention that is right is chosen by the service"
TOKENS = "the tokenizer is used as it is; new tokens cannot be added"
BNB = "bnb_config_kwargs"
REINFORCEMENT = "jobs are supervised: preferences and rewards have no counterpart"

FIELDS: dict[str, Rule] = {
    "base_model": Rule("model", str),
    "adapter": LATER,
    "load_in_4bit": LATER,
    "load_in_8bit": LATER,
    "datasets": LATER,
    "test_datasets": LATER,
    "val_set_size": LATER,
    "warmup_steps": LATER,
    "eval_strategy": LATER,
    "save_strategy": LATER,
    "bnb_config_kwargs.bnb_4bit_quant_type": LATER,
    "bnb_config_kwargs.bnb_4bit_use_double_quant": LATER,
    "bnb_config_kwargs.llm_int8_has_fp16_weight": needless(DEVICE),
    "lora_r": Rule("lora.r", whole),
    "lora_alpha": Rule("lora.alpha", whole),
    "lora_dropout": Rule("lora.dropout", number),
    "lora_target_modules": LATER,
    "lora_target_linear": LATER,
    "peft_use_rslora": Rule("lora.use_rslora", switch),
    "peft_use_dora": Rule("lora.use_dora", switch),
    "peft_init_lora_weights": Rule("lora.init", lora_init),
    "sequence_len": Rule("training.max_seq_length", whole),
    "sample_packing": Rule("training.packing", switch),
    "micro_batch_size": Rule("training.micro_batch_size", whole),
    "gradient_accumulation_steps": Rule("training.gradient_accumulation", whole),
    "batch_size": lost("micro_batch_size times gradient_accumulation_steps is the batch"),
    "num_epochs": Rule("hyperparameters.n_epochs", epochs),
    "max_steps": Rule("training.max_steps", limit),
    "learning_rate": Rule("training.learning_rate", number),
    "optimizer": Rule("training.optimizer", optimizer),
    "lr_scheduler": Rule("training.scheduler", scheduler),
    "warmup_ratio": Rule("training.warmup_ratio", number),
    "weight_decay": Rule("training.weight_decay", number),
    "max_grad_norm": Rule("training.max_grad_norm", number),
    "gradient_checkpointing": Rule("training.gradient_checkpointing", on_or_auto),
    "seed": Rule("seed", whole),
    "eval_steps": Rule("training.eval_steps", steps),
    "save_steps": Rule("training.checkpoint_steps", steps),
    "evals_per_epoch": needless(EIGHT_A_RUN),
    "saves_per_epoch": needless(BY_TIME),
    "train_on_inputs": lost("the loss counts on the assistant's words only; weight: 0 takes a message out"),
    "chat_template": lost(TEMPLATE, "tokenizer_default"),
    **each("chat_template_jinja chat_template_kwargs default_system_message eot_tokens", lost(TEMPLATE)),
    "lora_model_dir": lost(
        "to continue from an adapter, name a fine-tuned model or a checkpoint of the pool as `model`"
    ),
    **each("lora_modules_to_save lora_target_parameters unfrozen_parameters", lost(ADAPTERS)),
    **each(
        "lora_rank_pattern lora_alpha_pattern peft_layers_to_transform peft_layers_pattern",
        lost(ONE_RANK),
    ),
    **each("loraplus_lr_ratio embedding_lr embedding_lr_scale lr_groups", lost(ONE_RATE)),
    "loraplus_lr_embedding": lost(ONE_RATE, 1e-6),
    **each("special_tokens tokens added_tokens_overrides resize_token_embeddings_to_32x", lost(TOKENS)),
    **each("special_tokens.pad_token special_tokens.bos_token special_tokens.eos_token", lost(TOKENS)),
    **each("rl reward_model process_reward_model", LATER),
    **each("orpo_alpha rl_beta", lost(REINFORCEMENT)),
    "relora": lost("adapters are not merged while training"),
    "trust_remote_code": lost("code that comes with a model is not run; Transformers' own classes are used"),
    "revision_of_model": LATER,
    **each("model_type tokenizer_type tokenizer_config base_model_config type_of_model", needless(FROM_MODEL)),
    **each("is_llama_derived_model is_mistral_derived_model is_falcon_derived_model", needless(FROM_MODEL)),
    **each("tokenizer_use_fast tokenizer_legacy processor_type strict", needless(FROM_MODEL)),
    **each("flash_attention sdp_attention xformers_attention eager_attention flex_attention", needless(ATTENTION)),
    **each("attn_implementation s2_attention flash_attn_cross_entropy flash_attn_rms_norm", needless(ATTENTION)),
    **each("lora_mlp_kernel lora_qkv_kernel lora_o_kernel torch_compile plugins", needless(KERNELS)),
    **each("liger_rope liger_rms_norm liger_glu_activation liger_fused_linear_cross_entropy", needless(KERNELS)),
    **each("gradient_checkpointing_kwargs.use_reentrant", needless(KERNELS)),
    **each("bf16 fp16 tf32 bfloat16 float16 fp8 device device_map local_rank gpu_memory_limit", needless(DEVICE)),
    **each("dataset_prepared_path dataset_processes dataset_num_proc dataset_keep_in_memory", needless(LOADING)),
    **each("pad_to_sequence_len eval_sample_packing sample_packing_eff_est remove_unused_columns", needless(LOADING)),
    **each("dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor", needless(LOADING)),
    **each("shuffle_merged_datasets shuffle_before_merging_datasets", needless("rows are shuffled in every epoch")),
    **each("output_dir hub_model_id hub_strategy save_safetensors save_total_limit save_only_model", needless(STORED)),
    **each("wandb_project wandb_entity wandb_watch wandb_name wandb_run_id wandb_log_model", needless(REPORTED)),
    **each(
        "wandb_mode mlflow_experiment_name mlflow_tracking_uri use_tensorboard comet_project_name", needless(REPORTED)
    ),
    **each("logging_steps eval_table_size debug include_tokens_per_second save_first_step", needless(REPORTED)),
    "eval_batch_size": needless("evaluation takes the micro-batch of training"),
    **each("resume_from_checkpoint auto_resume_from_checkpoints", needless(RESUMING)),
    **each("early_stopping_patience load_best_model_at_end metric_for_best_model", lost(NO_METRIC_CHOICE)),
    **each("deepspeed fsdp fsdp_config fsdp_version tensor_parallel_size context_parallel_size", lost(WHOLE_MODEL)),
    **each("adam_beta1 adam_beta2 adam_epsilon optim_args cosine_min_lr_ratio", lost(OPTIMIZER_ARGUMENT)),
    "neftune_noise_alpha": lost("no noise is added to embeddings; training.weight_decay and lora.dropout regularize"),
    "group_by_length": lost("rows are shuffled; training.packing saves the padding that this is for"),
    "auto_find_batch_size": needless("the micro-batch is made smaller by itself when memory runs out"),
}
DEFAULTS = {
    "hyperparameters.n_epochs": 1,
    "training.micro_batch_size": 1,
    "training.gradient_accumulation": 1,
    "training.scheduler": "cosine",
    "training.max_seq_length": 512,
}


def translate(out: Translation, target: Target) -> None:
    for name in ("rl", "reward_model", "process_reward_model"):
        if out.source.word(name) not in {"", "False"}:
            raise out.source.error(name, REINFORCEMENT)
    out.apply(FIELDS)
    _set_method(out)
    _set_targets(out)
    note_targets(out, "lora_target_modules")
    join_revision(out, "revision_of_model")
    finish_warmup(out)
    finish_strategies(out, evaluates="steps" if out.source.has("eval_steps") else "no")
    set_defaults(out, tool="Axolotl", defaults=DEFAULTS)
    place_data(out, list(_sources(out)), held_out="val_set_size", target=target)


def _set_method(out: Translation) -> None:
    """adapter: lora, qlora, or none, which is full fine-tuning there."""
    source = out.source
    adapter = source.word("adapter")
    if not adapter:
        out.note("adapter", Fate.CHANGED, "all weights are trained there; a job trains an adapter (LoRA of rank 16)")
    elif adapter not in {"lora", "qlora"}:
        raise source.error("adapter", f"{adapter} is not an adapter that Tunepool trains; it has lora and qlora")
    if adapter == "qlora" or switch(source.get("load_in_4bit", False)):
        bits = "load_in_4bit" if source.has("load_in_4bit") else "adapter"
        set_quantization(out, bits, f"{BNB}.bnb_4bit_quant_type", f"{BNB}.bnb_4bit_use_double_quant", double=True)
    elif switch(source.get("load_in_8bit", False)):
        out.set("quantization.type", "int8", source.fields["load_in_8bit"])


def _set_targets(out: Translation) -> None:
    linear, named = out.source.fields.get("lora_target_linear"), out.source.fields.get("lora_target_modules")
    if linear is not None and switch(linear.value):
        out.set("lora.target_modules", "all-linear", linear)
    elif named is not None and named.value:
        out.apply_one("lora_target_modules", Rule("lora.target_modules", modules))


def _sources(out: Translation) -> Iterator[Source]:
    for field, validates in (("datasets", False), ("test_datasets", True)):
        listed = out.source.get(field, [])
        for entry in listed if isinstance(listed, list) else [listed]:
            if not isinstance(entry, dict) or not entry.get("path"):
                raise out.source.error(field, "each data set needs a path")
            yield Source(field, _location(entry), _shape(entry), validates)


def _location(entry: dict[str, Any]) -> str:
    """data_files of a folder or of the json builder, else the path."""
    files = entry.get("data_files")
    first = files[0] if isinstance(files, list) and files else files
    return str(first) if isinstance(first, str) else str(entry["path"])


def _shape(entry: dict[str, Any]) -> Shape | None:
    """What the entry says of the rows; None leaves it to the rows themselves."""
    kind = entry.get("type")
    if isinstance(kind, dict):
        names = {ours: kind[theirs] for ours, theirs in _USER_DEFINED.items() if kind.get(theirs)}
        return Shape(Kind.INSTRUCTION, **names)
    if any(entry.get(name) for name in ("field_messages", "message_property_mappings", "roles", "message_field_role")):
        mapping, renamed = _mapping(entry, "message_property_mappings"), _mapping(entry, "roles")
        roles = {**ROLES, **{str(name): ours for ours, names in renamed.items() for name in names}}
        return Shape(
            Kind.TURNS,
            entry.get("field_messages", "messages"),
            mapping.get("role", entry.get("message_field_role", "role")),
            mapping.get("content", entry.get("message_field_content", "content")),
            roles,
        )
    return None


def _mapping(entry: dict[str, Any], name: str) -> dict[str, Any]:
    found = entry.get(name)
    return found if isinstance(found, dict) else {}


_USER_DEFINED = {
    "instruction": "field_instruction",
    "input": "field_input",
    "output": "field_output",
    "system": "field_system",
}
