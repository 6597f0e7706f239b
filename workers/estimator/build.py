"""From a request to the real model on the meta device: transformers' class, PEFT's adapter, dtypes, checkpointing.

Nothing is downloaded and no weight exists. What cannot be built raises EstimateError with the field that is wrong.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.initialization import no_init_weights

from workers.estimator import attention
from workers.estimator.quantized import quantize_linears
from workers.estimator.request import Lora, Request

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

MOST_LAYERS = 1000
"""Four times what published models have; a recording grows with them, and nobody else is answered meanwhile."""


class EstimateError(ValueError):
    """The request cannot be answered; the text names the field and the reason."""


def read_config(request: Request) -> PreTrainedConfig:
    """The model's configuration, with transformers' defaults for what the request leaves out."""
    fields = request.architecture
    field = "model_config"
    if fields is None:
        field = "model"
        path = Path(request.model or "") / "config.json"
        try:
            fields = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise EstimateError(f"model: {path} cannot be read: {type(error).__name__}") from error
    fields = {key: value for key, value in fields.items() if key not in {"auto_map", "quantization_config"}}
    if not isinstance(fields.get("model_type"), str):
        raise EstimateError(f"{field}.model_type: a transformers model type is needed")
    try:
        config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    except Exception as error:  # whatever a configuration class raises is about the request
        raise EstimateError(f"{field}: {str(error)[:300]}") from error
    _check_config(config, field)
    return config


def _check_config(config: PreTrainedConfig, field: str) -> None:
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise EstimateError(f"{field}.model_type: {config.model_type} is not a causal language model of transformers'")
    depth = getattr(config.get_text_config(), "num_hidden_layers", None)
    if not isinstance(depth, int) or not 0 < depth <= MOST_LAYERS:
        raise EstimateError(f"{field}.num_hidden_layers: 1 to {MOST_LAYERS} can be traced, not {depth}")


def build_model(request: Request, config: PreTrainedConfig) -> nn.Module:
    """The model as its training loop sees it, in training mode, every storage on the meta device."""
    training = request.training
    dtype = DTYPES[training.dtype]
    attention.register()
    try:
        with torch.device("meta"):
            model = _from_config(config, dtype, request.training.attention)
    except Exception as error:  # whatever a model class raises is about its configuration
        raise EstimateError(f"model_config: {type(error).__name__}: {str(error)[:300]}") from error
    model.config.use_cache = training.keeps_outputs and not training.gradient_checkpointing
    if request.lora is not None:
        model.requires_grad_(requires_grad=False)
    if request.quantization.type != "none":
        quantize_linears(model, request.quantization, dtype)
        model.is_loaded_in_4bit = request.quantization.type in {"nf4", "fp4"}
        model.is_loaded_in_8bit = request.quantization.type == "int8"
    if training.residual_dtype is not None and training.residual_dtype != training.dtype:
        _widen_residuals(model, request)
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if request.lora is not None:
            model.enable_input_require_grads()
    if request.lora is not None:
        model = _add_adapter(model, request.lora)
    return model.train()


def build_reference(request: Request, config: PreTrainedConfig) -> nn.Module | None:
    """The frozen copy that DPO compares with, unless an adapter is trained: that is switched off for it."""
    training = request.training
    if training.method != "dpo" or request.lora is not None or training.precomputes_reference:
        return None
    return build_model(request, config).requires_grad_(requires_grad=False)


def _from_config(config: PreTrainedConfig, dtype: torch.dtype, wanted: str) -> nn.Module:
    """The model with the attention that the request asks for, as far as transformers has it for this architecture."""
    kinds = {"flash": attention.WITHOUT_MASK, "sdpa": attention.WITH_MASK, "eager": "eager"}
    model_class = AutoModelForCausalLM._model_mapping[type(config)]
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    if wanted == "sdpa" and (capped or not model_class._supports_sdpa):
        wanted = "eager"  # the fused product has neither soft caps nor sinks
    try:
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=kinds[wanted])
    except KeyError:  # Falcon keeps a table of its own; its fused product is replaced where it is called
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")


def _widen_residuals(model: nn.Module, request: Request) -> None:
    """PEFT's k-bit preparation makes norms float32, and a packed layer answers in its input's dtype: so the stream is.

    TRL takes embeddings and head back to bfloat16. Plain layers answer in their weights' dtype, so without
    quantization a float32 stream starts at the embeddings.
    """
    dtype = DTYPES[request.training.residual_dtype or request.training.dtype]
    embeddings = model.get_input_embeddings()
    for name, module in model.named_modules():
        wide = "norm" in name.lower() or "ln_" in name or isinstance(module, nn.LayerNorm)
        if wide or (request.quantization.type == "none" and module is embeddings):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def _add_adapter(model: nn.Module, lora: Lora) -> nn.Module:
    targets = lora.target_modules
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        bias=lora.bias,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        modules_to_save=lora.modules_to_save,
    )
    for field, names in (("target_modules", targets), ("modules_to_save", lora.modules_to_save)):
        if isinstance(names, list):
            _check_targets(model, names, field)
    try:
        with torch.device("meta"), no_init_weights():
            adapted: Any = _wrap(model, config)
    except Exception as error:
        raise EstimateError(f"lora: {str(error)[:300]}") from error
    dtype = DTYPES[lora.adapter_dtype]
    for name, parameter in adapted.named_parameters():
        if lora.use_lora_fa and ".lora_A." in name:
            parameter.requires_grad_(requires_grad=False)
        if parameter.requires_grad and parameter.dtype != dtype and not is_saved_module(name):
            parameter.data = parameter.data.to(dtype)
    return adapted


def is_saved_module(name: str) -> bool:
    """Whether PEFT trains a copy of the whole module under this name, in the module's own dtype."""
    return ".modules_to_save." in name


def _wrap(model: Any, config: LoraConfig) -> nn.Module:
    """PEFT's own choice of modules where none are named; all linear layers where PEFT has none for the architecture."""
    try:
        return get_peft_model(model, copy.deepcopy(config))  # PEFT writes what it finds into the configuration
    except ValueError as error:
        if config.target_modules or "target_modules" not in str(error):
            raise
        config.target_modules = "all-linear"
        return get_peft_model(model, config)


def _check_targets(model: nn.Module, targets: list[str], field: str) -> None:
    names = [name for name, _ in model.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith("." + target) for name in names):
            raise EstimateError(f"lora.{field}: this architecture has no module {target!r}")


def find_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder's repeated layers: the longest list of modules with that many layers in the configuration."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    count = model.config.get_text_config().num_hidden_layers
    found = [item for item in lists if len(item) == count]
    if not found:
        raise EstimateError("model_config: this architecture has no list of layers that can be followed")
    return found[0]
