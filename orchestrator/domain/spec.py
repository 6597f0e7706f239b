"""What a user asks for: the job's spec as it is stored and echoed, 'auto' wherever the user left the choice to us.

PEFT's and OpenAI's words are used where they have one. `orchestrator.domain.plan` turns a spec into a plan without
'auto'. Unknown fields are refused, so that a typing mistake is an error and not a silent default.
"""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator

Auto = Literal["auto"]
AUTO: Auto = "auto"

PositiveInt = Annotated[int, Field(ge=1)]
LoraInit = Literal["default", "gaussian", "pissa", "olora", "loftq"]


class Strict(BaseModel):
    """Frozen, and refuses fields that it does not know, and numbers that JSON cannot hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class Hyperparameters(Strict):
    """OpenAI's three numbers. `batch_size` is rows per optimizer step, over all micro-batches and devices."""

    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = AUTO
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = AUTO
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0)] = AUTO


class Supervised(Strict):
    hyperparameters: Hyperparameters = Hyperparameters()


class Method(Strict):
    type: Literal["supervised"] = "supervised"
    supervised: Supervised = Supervised()


class LoraSpec(Strict):
    """Low-rank adapters (Hu et al. 2021). The defaults follow QLoRA (Dettmers et al. 2023): every linear layer."""

    r: Annotated[int, Field(ge=1, le=1024)] = 16
    alpha: Auto | PositiveInt = Field(default=AUTO, validation_alias=AliasChoices("alpha", "lora_alpha"))
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, validation_alias=AliasChoices("dropout", "lora_dropout")
    )
    target_modules: Literal["auto", "all-linear"] | tuple[str, ...] = AUTO
    bias: Literal["none", "all", "lora_only"] = "none"
    use_rslora: bool = False
    use_dora: bool = False
    init: LoraInit = Field(default="default", validation_alias=AliasChoices("init", "init_lora_weights"))


class QuantizationSpec(Strict):
    """How the frozen base weights are stored. `nf4` with `double_quant` is QLoRA; `compute_dtype` auto is bfloat16."""

    type: Literal["none", "nf4", "fp4", "int8"] = "none"
    double_quant: bool = True
    compute_dtype: Auto | Literal["bfloat16", "float16", "float32"] = AUTO


class TrainingSpec(Strict):
    """How to train. An absolute `learning_rate` excludes `hyperparameters.learning_rate_multiplier`."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    max_seq_length: Auto | Annotated[int, Field(ge=8, le=1_048_576)] = AUTO
    packing: bool = False
    micro_batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = AUTO
    gradient_accumulation: Auto | Annotated[int, Field(ge=1, le=4096)] = AUTO
    gradient_checkpointing: Auto | bool = AUTO
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "sgd"] = "adamw"
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    max_steps: PositiveInt | None = None
    eval_steps: Auto | PositiveInt | None = AUTO
    checkpoint_steps: PositiveInt | None = None
    checkpoint_seconds: Auto | PositiveInt | None = AUTO


class ResourcesSpec(Strict):
    """Where to run. `device_type` is a name from the pool (see GET /v1/pool), such as 'cpu' or 'nvidia-rtx-4090'."""

    device_type: Auto | str = AUTO
    count: Literal[1] = 1
    exclusive: bool = False
    max_runtime_seconds: PositiveInt | None = None


FileId = Annotated[str, Field(min_length=1, max_length=128)]


class JobShape(Strict):
    """All of a job but its rows: what a plan and an estimate can be made of."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    validation_file: FileId | None = None
    method: Method = Method()
    suffix: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] | None = None
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] | None = None
    metadata: dict[str, str] | None = None
    lora: LoraSpec = LoraSpec()
    quantization: QuantizationSpec = QuantizationSpec()
    training: TrainingSpec = TrainingSpec()
    resources: ResourcesSpec = ResourcesSpec()
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    max_cost_usd: Decimal | None = Field(default=None, gt=0, max_digits=12, decimal_places=6)

    @field_validator("metadata")
    @classmethod
    def _metadata_limits(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        """OpenAI's limits: 16 pairs, keys of 64 and values of 512 characters."""
        if value is None:
            return value
        if len(value) > 16:
            raise ValueError(f"at most 16 pairs, got {len(value)}")
        for key, text in value.items():
            if len(key) > 64:
                raise ValueError(f"key {key[:20]!r}… is longer than 64 characters")
            if len(text) > 512:
                raise ValueError(f"the value of {key!r} is longer than 512 characters")
        return value

    @model_validator(mode="after")
    def _one_learning_rate(self) -> "JobShape":
        multiplier = self.method.supervised.hyperparameters.learning_rate_multiplier
        if self.training.learning_rate is not None and multiplier != AUTO:
            raise ValueError("give training.learning_rate or hyperparameters.learning_rate_multiplier, not both")
        return self

    @property
    def max_cost_usd_micros(self) -> int | None:
        """The limit in micro-dollars, exact because at most six decimal places are accepted."""
        return None if self.max_cost_usd is None else int(self.max_cost_usd * 1_000_000)


class JobSpec(JobShape):
    training_file: FileId


class EstimateSpec(JobShape):
    """A job to be estimated. Without `training_file` its rows are described: how many, and how long.

    `tokens` and `longest_row_tokens` count by the model's own tokenizer and template; what is not given is guessed from
    the file's size or from `rows`, and the answer says so.
    """

    training_file: FileId | None = None
    rows: PositiveInt | None = None
    tokens: PositiveInt | None = None
    longest_row_tokens: PositiveInt | None = None
