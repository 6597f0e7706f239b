"""What a user asks for: the job's spec as it is stored and echoed, 'auto' wherever the user left the choice to us.

PEFT's and OpenAI's words are used where they have one. `orchestrator.domain.plan` turns a spec into a plan without
'auto'. Unknown fields are refused, so that a typing mistake is an error and not a silent default.
"""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator, model_validator

from orchestrator.domain.priority import PriorityClass

Auto = Literal["auto"]
AUTO: Auto = "auto"

LARGEST_BATCH_ROWS = 256
"""What OpenAI accepts as `batch_size`."""
MOST_DEVICES = 16
"""Of one node: the largest that clouds rent out have 16 GPUs (AWS p2.16xlarge, GCP a2-megagpu-16g)."""

PositiveInt = Annotated[int, Field(ge=1)]
LoraInit = Literal["default", "gaussian", "pissa", "olora", "loftq"]


class Strict(BaseModel):
    """Frozen, and refuses fields that it does not know, and numbers that JSON cannot hold."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Hyperparameters(Strict):
    """OpenAI's three numbers. `batch_size` is rows per optimizer step, over all micro-batches and devices."""

    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] = AUTO
    """Passes over the training file."""
    batch_size: Auto | Annotated[int, Field(ge=1, le=LARGEST_BATCH_ROWS)] = AUTO
    """Rows per optimizer step, of all devices together."""
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0)] = AUTO
    """Times the default learning rate."""


class Supervised(Strict):
    hyperparameters: Hyperparameters = Hyperparameters()
    """Epochs, batch size, learning rate."""


class Method(Strict):
    type: Literal["supervised"] = "supervised"
    """What is learned: the assistant's answers."""
    supervised: Supervised = Supervised()
    """Settings of the supervised method."""


class LoraSpec(Strict):
    """Low-rank adapters (Hu et al. 2021). The defaults follow QLoRA (Dettmers et al. 2023): every linear layer."""

    r: Annotated[int, Field(ge=1, le=1024)] = 16
    """The adapter's rank."""
    alpha: Auto | PositiveInt = Field(default=AUTO, validation_alias=AliasChoices("alpha", "lora_alpha"))
    """The update is scaled by alpha / r; 'auto' is 2 r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, validation_alias=AliasChoices("dropout", "lora_dropout")
    )
    """The share of the adapter's inputs that is dropped while training."""
    target_modules: Literal["auto", "all-linear"] | tuple[str, ...] = AUTO
    """Last parts of module names, such as q_proj; 'auto' is every linear layer."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases are trained too."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r) instead."""
    use_dora: bool = False
    """Train magnitude and direction of the weights apart (DoRA)."""
    init: LoraInit = Field(default="default", validation_alias=AliasChoices("init", "init_lora_weights"))
    """How the adapter's weights begin."""


class QuantizationSpec(Strict):
    """How the frozen base weights are stored. `nf4` with `double_quant` is QLoRA; `compute_dtype` auto is bfloat16."""

    type: Literal["none", "nf4", "fp4", "int8"] = "none"
    """The storage format."""
    double_quant: bool = True
    """Quantize the constants of 4-bit formats again, which saves 0.4 bits per weight."""
    compute_dtype: Auto | Literal["bfloat16", "float16", "float32"] = AUTO
    """What weights are turned into for computing."""


class TrainingSpec(Strict):
    """How to train. An absolute `learning_rate` excludes `hyperparameters.learning_rate_multiplier`."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """The highest rate of the schedule."""
    max_seq_length: Auto | Annotated[int, Field(ge=8, le=1_048_576)] = AUTO
    """Tokens per row; 'auto' is the longest row, up to the model's context."""
    packing: bool = False
    """Put several rows into one sequence."""
    micro_batch_size: Auto | Annotated[int, Field(ge=1, le=256)] = AUTO
    """Rows that are on a device at once."""
    gradient_accumulation: Auto | Annotated[int, Field(ge=1, le=4096)] = AUTO
    """Micro-batches of each device per optimizer step."""
    gradient_checkpointing: Auto | bool = AUTO
    """Compute activations twice instead of keeping them."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "sgd"] = "adamw"
    """Its state is kept for the adapter only."""
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    """How the learning rate changes."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """The share of all steps in which the rate rises."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled from the gradient."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Longer gradients are cut to this; 0 cuts none."""
    max_steps: PositiveInt | None = None
    """Stop after so many optimizer steps, however many epochs that is."""
    eval_steps: Auto | PositiveInt | None = AUTO
    """Steps between evaluations on the validation file; null for none."""
    checkpoint_steps: PositiveInt | None = None
    """Steps between checkpoints."""
    checkpoint_seconds: Auto | PositiveInt | None = AUTO
    """Seconds between checkpoints; null for none by time."""


class ResourcesSpec(Strict):
    """Where to run. `device_type` is a name from the pool (see GET /v1/pool), such as 'cpu' or 'nvidia-rtx-4090'."""

    device_type: Auto | str = AUTO
    """A type that the pool has; 'auto' is any."""
    count: Annotated[int, Field(ge=1, le=MOST_DEVICES)] = 1
    """Devices of one node that train the job together, each with the whole model and its part of every batch. The job
    starts when it gets all of them, and pays for each."""
    exclusive: bool = False
    """Share the device with no other job, and pay for all of it."""
    max_runtime_seconds: PositiveInt | None = None
    """The job stops after this much training, with a checkpoint."""
    flexible: bool = False
    """Let the scheduler choose a smaller micro-batch or gradient checkpointing, with the same effective batch, when the
    job would have to wait otherwise."""


FileId = Annotated[str, Field(min_length=1, max_length=128)]


class JobShape(Strict):
    """All of a job but its rows: what a plan and an estimate can be made of."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    """A base model (see GET /v1/models), a folder below an allowed root, a hub id, or one of the team's fine-tuned
    models or a checkpoint of one, to continue from: what `lora` and `quantization` do not say is then as there."""
    validation_file: FileId | None = None
    """A file's id; its loss is measured and never trained on."""
    method: Method = Method()
    """How to train."""
    suffix: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] | None = None
    """Goes into the fine-tuned model's name."""
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] | None = None
    """Drawn, and shown, when it is not given."""
    metadata: dict[str, str] | None = None
    """Up to 16 pairs of your own, to find the job by."""
    lora: LoraSpec = LoraSpec()
    """The adapter."""
    quantization: QuantizationSpec = QuantizationSpec()
    """Of the base model's weights."""
    training: TrainingSpec = TrainingSpec()
    """The training run."""
    resources: ResourcesSpec = ResourcesSpec()
    """Where it runs."""
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    """Higher goes first, among the team's own jobs of the same class."""
    priority_class: PriorityClass = PriorityClass.NORMAL
    """'urgent' goes first, within the team's guarantee; 'idle' runs on what nobody else wants and makes room first."""
    max_cost_usd: Decimal | None = Field(default=None, gt=0, max_digits=12, decimal_places=6)
    """The job stops before it costs more, with a checkpoint."""

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
    """A file's id, with purpose fine-tune."""


class EstimateSpec(JobShape):
    """A job to be estimated. Without `training_file` its rows are described: how many, and how long.

    `tokens` and `longest_row_tokens` count by the model's own tokenizer and template; what is not given is guessed from
    the file's size or from `rows`, and the answer says so.
    """

    training_file: FileId | None = None
    """A file's id; without it, describe the rows."""
    rows: PositiveInt | None = None
    """How many rows the file would have."""
    tokens: PositiveInt | None = None
    """How many tokens all rows have together."""
    longest_row_tokens: PositiveInt | None = None
    """How long the longest row is."""
