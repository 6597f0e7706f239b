"""From a checked folder and a plan to a model that is ready to train: frozen base, quantized or not, and its adapter.

The base is read from safetensors only and runs no code of its own. Adapters are float32 whatever the base is: Adam's
steps are often smaller than bfloat16 can add to a weight.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import Linear4bit as LoraLinear4bit
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.protocol import DeviceGrant
from workers.failures import ModelError, UserError
from workers.malloc import heap_kept_small

logger = logging.getLogger(__name__)

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_INITS: dict[str, Any] = {
    "default": True,
    "gaussian": "gaussian",
    "pissa": "pissa",
    "olora": "olora",
    "loftq": True,
}
"""LoftQ starts as the default and is then fitted to the quantized base (Li et al. 2023)."""
MUTATING_INITS = frozenset({"pissa", "olora"})
"""Inits that take what the adapter starts with out of the base weights, so that saving has to undo it."""


def compute_dtype(plan: TrainingPlan) -> torch.dtype:
    return _DTYPES[plan.compute_dtype]


def check_plan(plan: TrainingPlan, device: DeviceGrant) -> None:
    """Raise UserError for combinations that cannot work, before anything heavy is loaded."""
    if plan.compute_dtype == "float16" and device.kind == "cpu":
        raise UserError("quantization.compute_dtype 'float16' needs a CUDA device; on a CPU use 'bfloat16'")
    if plan.lora_init == "loftq" and plan.quantization not in {"nf4", "fp4"}:
        raise UserError("lora.init 'loftq' needs quantization.type 'nf4' or 'fp4'")
    if plan.lora_init == "loftq" and plan.use_dora:
        raise UserError("lora.init 'loftq' and lora.use_dora exclude each other")
    if plan.lora_init in MUTATING_INITS and plan.quantization != "none":
        raise UserError(f"lora.init {plan.lora_init!r} needs quantization.type 'none'")


def load_base_model(folder: Path, plan: TrainingPlan, device: DeviceGrant) -> PreTrainedModel:
    """The base model on its device, frozen. Raises ModelError when the folder is not what it should be."""
    try:
        with heap_kept_small(device):
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=compute_dtype(plan),
                device_map={"": f"cuda:{torch.cuda.current_device()}" if device.kind == "cuda" else "cpu"},
                quantization_config=_quantization(plan),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"the base model cannot be loaded: {str(error)[:300]}") from error
    model.requires_grad_(requires_grad=False)
    _forbid_inference_layout(model)
    if device.kind == "cpu" and plan.quantization != "none":
        _copy_out_of_file(model)
    return model


def add_adapter(model: PreTrainedModel, plan: TrainingPlan, *, folder: Path, base_name: str) -> PeftModel:
    """Wrap `model` with a fresh adapter; the random numbers come from torch's generator. Raises UserError.

    The adapter names its base `base_name`, not the folder that it happens to lie in on this node.
    """
    model.name_or_path = base_name
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=plan.lora_r,
        lora_alpha=plan.lora_alpha,
        lora_dropout=plan.lora_dropout,
        target_modules=sorted(plan.lora_target_modules),
        bias=plan.lora_bias,
        use_rslora=plan.use_rslora,
        use_dora=plan.use_dora,
        init_lora_weights=_INITS[plan.lora_init],
    )
    try:
        adapted = get_peft_model(model, config)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"the adapter cannot be put on this model: {str(error)[:300]}") from error
    if plan.lora_init == "loftq":
        _fit_loftq(adapted, folder)
    return adapted


def load_adapter_weights(model: PeftModel, path: Path, *, name: str) -> None:
    """Give the adapter the weights of another one, which is called `name`.

    Raises UserError, before anything is changed, unless both have the same tensors with the same shapes.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the weights of {name} cannot be read: {str(error)[:300]}") from error
    wanted = {key: tuple(tensor.shape) for key, tensor in get_peft_model_state_dict(model).items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if differing := sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)):
        key = differing[0]
        raise UserError(
            f"model: the weights of {name} do not fit: {key} is {found.get(key, 'missing')} in them and "
            f"{wanted.get(key, 'missing')} here ({len(differing)} tensors differ)"
        )
    set_peft_model_state_dict(model, tensors)


@contextmanager
def adapter_kept_in_float32(model: PeftModel) -> Iterator[None]:
    """Undo what TRL's trainer does on construction: it rounds the adapter of a quantized model to bfloat16.

    Its own comment spares DoRA's magnitudes because their updates vanish in bfloat16; late in a schedule all do.
    """
    kept = {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}
    yield
    for name, weight in model.named_parameters():
        if name in kept:
            weight.data = kept[name]


def precision_arguments(plan: TrainingPlan) -> dict[str, Any]:
    """Arguments of TrainingArguments: products in the compute dtype, the adapter and its optimizer in float32.

    Measured 2026-11-23 on two EPYC cores with AVX512-BF16, SmolLM2-135M, a micro-batch [4, 64], CPU seconds a step:
    float32 2.4; bfloat16 base without autocast 1.6, with it 1.4; NF4 1.6 and 1.5.
    """
    return {"bf16": plan.compute_dtype == "bfloat16", "fp16": plan.compute_dtype == "float16"}


def _copy_out_of_file(model: PreTrainedModel) -> None:
    """Give the weights that were not quantized memory of their own: as views they keep the whole file mapped.

    Measured 2026-11-23, SmolLM2-135M in NF4, a micro-batch [4, 64]: at most 1353 MiB resident instead of 1610.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.clone()


def _quantization(plan: TrainingPlan) -> BitsAndBytesConfig | None:
    if plan.quantization == "none":
        return None
    if plan.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=plan.quantization,
        bnb_4bit_use_double_quant=plan.double_quant,
        bnb_4bit_compute_dtype=compute_dtype(plan),
    )


def _forbid_inference_layout(model: PreTrainedModel) -> None:
    """Keep 4-bit weights differentiable on a CPU with AVX512-BF16.

    There bitsandbytes 0.50 repacks a layer for inference at its first forward pass in eval mode, for good, and the
    repacked product has no gradient: after one evaluation the layers below would get none, and only a warning says so.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _fit_loftq(model: PeftModel, folder: Path) -> None:
    """Start each adapter at the best rank-r approximation of what quantization took from its layer (LoftQ, Li et al.
    2023, one iteration): scaling B A = W - Q(W), by the singular values of the difference [out, in].

    PEFT's own function asks for a GPU, and leaves the scaling out, which with alpha = 2 r overshoots by as much.
    """
    files = {name: path for path in folder.glob("*.safetensors") for name in _tensor_names(path)}
    for name, module in model.named_modules():
        if not isinstance(module, LoraLinear4bit):
            continue
        key = name.removeprefix("base_model.model.") + ".weight"
        if key not in files:
            raise UserError("lora.init 'loftq' needs the weights to have the same names in memory and on disk")
        quantized = module.get_base_layer().weight
        with safe_open(files[key], framework="pt", device=str(quantized.device)) as file:
            whole = file.get_tensor(key).float()
        difference = whole - dequantize_4bit(quantized.data, quantized.quant_state).float()
        left, values, right = torch.linalg.svd(difference, full_matrices=False)
        for adapter in module.active_adapters:
            rank = module.r[adapter]
            roots = (values[:rank] / module.scaling[adapter]).sqrt()
            module.lora_A[adapter].weight.data = (roots[:, None] * right[:rank]).contiguous()
            module.lora_B[adapter].weight.data = (left[:, :rank] * roots).contiguous()


def _tensor_names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())
