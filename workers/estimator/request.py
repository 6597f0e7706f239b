"""What is asked: one training set-up, in the fields of the batch interface. Every default is what our worker does.

Unknown fields and impossible values are refused by name; `describe_error` turns pydantic's answer into one sentence.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

DtypeName = Literal["bfloat16", "float16", "float32"]
"""Names of torch dtypes that weights, adapters and states may have."""

_OPTIMIZER_WORDS = {
    "adamw": "adamw_fused",
    "adamw_torch": "adamw_foreach",
    "adamw_torch_fused": "adamw_fused",
    "adamw_hf": "adamw_foreach",
    "adamw_8bit": "adamw_8bit",
    "adamw_bnb_8bit": "adamw_8bit",
    "adamw_32bit": "adamw_32bit",
    "paged_adamw": "paged_adamw_32bit",
    "paged_adamw_32bit": "paged_adamw_32bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
    "sgd_momentum": "sgd_momentum",
    "adagrad": "adagrad",
    "rmsprop": "rmsprop",
    "lion": "lion_32bit",
    "lion_32bit": "lion_32bit",
    "lion_8bit": "lion_8bit",
    "paged_lion_32bit": "paged_lion_32bit",
    "paged_lion_8bit": "paged_lion_8bit",
}
"""Our plan's words and transformers' OptimizerNames, and the implementation behind each (transformers 5, Trainer's
optimizer handlers: `adamw_torch` is torch's AdamW, which takes its foreach form on CUDA)."""


_NAMES_FIELD = re.compile(r"[a-z_.]+: ")
"""How a message begins that says itself which of several fields is wrong."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Lora(_Strict):
    """PEFT's LoraConfig; `target_modules` null is PEFT's own choice for the architecture.

    `use_lora_fa`: the first of an adapter's two matrices stays frozen, as PEFT's create_lorafa_optimizer leaves it.
    """

    r: int = Field(default=16, ge=1, le=4096)
    alpha: float = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: list[str] | str | None = None
    use_dora: bool = False
    use_rslora: bool = False
    use_lora_fa: bool = False
    modules_to_save: list[str] | None = None
    adapter_dtype: DtypeName = "float32"
    bias: Literal["none", "all", "lora_only"] = "none"

    @field_validator("target_modules")
    @classmethod
    def _unwrap(cls, value: list[str] | str | None) -> list[str] | str | None:
        """Empty is null, and 'all-linear' is a word of PEFT's, not a module's name."""
        return "all-linear" if value == ["all-linear"] else value or None


class Quantization(_Strict):
    """How bitsandbytes stores the frozen linear layers."""

    type: Literal["none", "nf4", "fp4", "int8"] = "none"
    double_quant: bool = True


class Training(_Strict):
    """One micro-batch and the step after it. `max_seq_length` tokens a row, all rows as long as the longest."""

    micro_batch_size: int = Field(default=1, ge=1, le=65536)
    max_seq_length: int = Field(default=2048, ge=2, le=2**24)
    packing: bool = False
    padded: bool | None = None
    gradient_checkpointing: bool = False
    optimizer: str = "adamw"
    optimizer_dtype: DtypeName | None = None
    dtype: DtypeName = "bfloat16"
    residual_dtype: DtypeName | None = None
    loss: Literal["materialized", "chunked", "fused"] = "fused"
    attention: Literal["flash", "sdpa", "eager"] = "sdpa"
    keeps_outputs: bool = False
    evaluates: bool = False
    eval_batch_size: int | None = Field(default=None, ge=1, le=65536)
    method: Literal["sft", "dpo"] = "sft"
    precomputes_reference: bool = False

    @field_validator("optimizer")
    @classmethod
    def _know(cls, name: str) -> str:
        if name not in _OPTIMIZER_WORDS:
            raise ValueError(f"{name!r} is not an optimizer that is known here: {', '.join(sorted(_OPTIMIZER_WORDS))}")
        return name

    @property
    def rows(self) -> Literal["whole", "padded", "packed"]:
        """What is in a batch: rows of several are rarely of one length, and a single one needs no padding."""
        if self.packing:
            return "packed"
        return "padded" if (self.micro_batch_size > 1 if self.padded is None else self.padded) else "whole"

    @model_validator(mode="after")
    def _agree(self) -> "Training":
        if self.packing and self.padded:
            raise ValueError("padded: packed rows are not padded; leave one of packing and padded out")
        if self.method == "dpo" and (self.keeps_outputs or self.packing):
            field = "keeps_outputs" if self.keeps_outputs else "packing"
            raise ValueError(f"{field}: DPO compares rows in pairs; leave it out, or ask for method 'sft'")
        if self.eval_batch_size is not None and not self.evaluates:
            raise ValueError("eval_batch_size: only a run that evaluates has one")
        if self.precomputes_reference and self.method != "dpo":
            raise ValueError("precomputes_reference: only method 'dpo' has a reference")
        return self

    @property
    def optimizer_kind(self) -> str:
        return _OPTIMIZER_WORDS[self.optimizer]


class Devices(_Strict):
    """`memory_bytes` of one device, where it is known: near its limit the allocator holds less in reserve. On `cpu` the
    figure is the worker's peak resident set (workers/estimator/cpu.py)."""

    kind: Literal["cuda", "cpu"] = "cuda"
    count: int = Field(default=1, ge=1, le=65536)
    sharding: Literal["none", "ddp", "fsdp"] = "none"
    memory_bytes: int | None = Field(default=None, gt=0)


class Request(_Strict):
    """One line of the batch interface."""

    id: str | int | None = None
    architecture: Annotated[dict[str, Any] | None, Field(alias="model_config")] = None
    model: str | None = None
    lora: Lora | None = None
    quantization: Quantization = Quantization()
    training: Training = Training()
    devices: Devices = Devices()

    @field_validator("quantization", "training", "devices", mode="before")
    @classmethod
    def _default(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _agree(self) -> "Request":
        if (self.architecture is None) == (self.model is None):
            raise ValueError("model_config: give either this or model")
        if self.lora is None and self.quantization.type != "none":
            raise ValueError("lora: quantized weights cannot be trained; ask for lora or for quantization.type 'none'")
        if self.devices.sharding != "none" and self.devices.count == 1:
            raise ValueError("devices.sharding: one device cannot share; ask for a count of 2 or more")
        return self


def describe_error(error: ValidationError) -> str:
    """One sentence with the dotted name of each field that is wrong."""
    parts = []
    for item in error.errors(include_url=False, include_context=False):
        field = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        named = _NAMES_FIELD.match(message)
        if field:
            parts.append(f"{field}.{message}" if named else f"{field}: {message}")
        else:
            parts.append(message if named else f"line: {message}")
    return "; ".join(parts)
