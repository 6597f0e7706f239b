"""From a spec with 'auto' to a plan without: every number that the worker will use, decided once and stored."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from orchestrator.domain.batches import Lengths
from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.models import ModelFacts
from orchestrator.domain.spec import AUTO, LARGEST_BATCH_ROWS, JobShape, LoraInit

DEFAULT_EPOCHS = 3
DEFAULT_BATCH_ROWS = 8
DEFAULT_MICRO_BATCH_ROWS = 4
BASE_LEARNING_RATE = 2e-4
"""QLoRA's rate for models up to 13B (Dettmers et al. 2023, table 9); `learning_rate_multiplier` multiplies it."""
DEFAULT_MAX_SEQ_TOKENS = 2048
"""Used for 'auto' only until the rows' real lengths are known; then the longest row decides, up to the context."""
LARGEST_LEARNING_RATE = 1.0
INITS_OF_16_BIT = frozenset({"pissa", "olora"})
"""They take what the adapter starts with out of the base weights, which quantized ones do not allow."""
SEQ_MULTIPLE_TOKENS = 64
"""Lengths are rounded up to this, so that kernels meet few different shapes."""
DEFAULT_CHECKPOINT_SECONDS = 600
DEFAULT_EVALS_PER_RUN = 8
CHECKPOINTING_FROM_TOKENS = 4096
"""Gradient checkpointing is chosen by 'auto' when one micro-batch has at least this many tokens."""


class TokenReport(BaseModel):
    """What tokenizing a file with the model's own tokenizer and template found. All counts are tokens but `rows`."""

    model_config = ConfigDict(frozen=True)

    rows: int
    total_tokens: int
    trained_tokens: int
    longest_row_tokens: int
    longest_row_line: int
    lengths: Lengths = ()
    """Of the examples that rows become: the rows, or what they are packed into. Empty when nobody has counted."""

    @property
    def examples(self) -> int:
        return sum(count for _, count in self.lengths) or self.rows


class TrainingPlan(BaseModel):
    """One run, fully decided. `batch_rows` = `micro_batch_rows` x `accumulation_steps` x `devices`."""

    model_config = ConfigDict(frozen=True)

    method: Literal["supervised"]
    epochs: int
    max_steps: int | None
    batch_rows: int
    micro_batch_rows: int
    accumulation_steps: int
    max_seq_tokens: int
    packing: bool
    gradient_checkpointing: bool
    learning_rate: float
    optimizer: str
    scheduler: str
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    eval_steps: int | None
    checkpoint_steps: int | None
    checkpoint_seconds: int | None
    seed: int
    lora_r: int
    lora_alpha: int
    lora_dropout: float
    lora_target_modules: tuple[str, ...]
    lora_bias: Literal["none", "all", "lora_only"]
    use_rslora: bool
    use_dora: bool
    lora_init: LoraInit
    quantization: Literal["none", "nf4", "fp4", "int8"]
    double_quant: bool
    compute_dtype: Literal["bfloat16", "float16", "float32"]
    devices: int = 1
    """How many train it together, each on micro-batches of its own, the whole model on every one."""

    def total_steps(self, examples: int) -> int:
        """Optimizer steps of the whole run over so many examples: rows, or what they are packed into."""
        steps = -(-examples // self.batch_rows) * self.epochs
        return min(steps, self.max_steps) if self.max_steps else steps

    def halve_micro_batch(self) -> "TrainingPlan | None":
        """The next smaller divisor of the batch, at most half, so that a step still trains on as many rows; None at
        one row."""
        if self.micro_batch_rows == 1:
            return None
        share = self.batch_rows // self.devices
        rows = max(n for n in range(1, self.micro_batch_rows // 2 + 1) if share % n == 0)
        return self.model_copy(update={"micro_batch_rows": rows, "accumulation_steps": share // rows})


def resolve_plan(spec: JobShape, facts: ModelFacts, *, seed: int, tokens: TokenReport | None = None) -> TrainingPlan:
    """Replace each 'auto'. Raises InvalidRequestError, naming the field, for what cannot be done on this model."""
    training, lora = spec.training, spec.lora
    hyper = spec.method.supervised.hyperparameters
    batch, micro, accumulation = _resolve_batch(spec)
    seq_tokens = _resolve_length(spec, facts, tokens)
    epochs = DEFAULT_EPOCHS if hyper.n_epochs == AUTO else hyper.n_epochs
    checkpointing = training.gradient_checkpointing
    if checkpointing == AUTO:
        checkpointing = micro * seq_tokens >= CHECKPOINTING_FROM_TOKENS
    _check_init(spec)
    learning_rate = _resolve_learning_rate(spec)
    examples = tokens.examples if tokens else 0
    steps = -(-examples // batch) * epochs if examples else None
    if steps and training.max_steps:
        steps = min(steps, training.max_steps)
    return TrainingPlan(
        method=spec.method.type,
        epochs=epochs,
        max_steps=training.max_steps,
        batch_rows=batch,
        micro_batch_rows=micro,
        accumulation_steps=accumulation,
        max_seq_tokens=seq_tokens,
        packing=training.packing,
        gradient_checkpointing=checkpointing,
        learning_rate=learning_rate,
        optimizer=training.optimizer,
        scheduler=training.scheduler,
        warmup_ratio=training.warmup_ratio,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        eval_steps=_resolve_eval_steps(spec, steps),
        checkpoint_steps=training.checkpoint_steps,
        checkpoint_seconds=(
            DEFAULT_CHECKPOINT_SECONDS if training.checkpoint_seconds == AUTO else training.checkpoint_seconds
        ),
        seed=seed,
        lora_r=lora.r,
        lora_alpha=2 * lora.r if lora.alpha == AUTO else lora.alpha,
        lora_dropout=lora.dropout,
        lora_target_modules=resolve_targets(spec, facts),
        lora_bias=lora.bias,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        lora_init=lora.init,
        quantization=spec.quantization.type,
        double_quant=spec.quantization.double_quant,
        compute_dtype="bfloat16" if spec.quantization.compute_dtype == AUTO else spec.quantization.compute_dtype,
        devices=spec.resources.count,
    )


def resolve_targets(spec: JobShape, facts: ModelFacts) -> tuple[str, ...]:
    """The module names that get an adapter. Raises InvalidRequestError naming those that the model lacks."""
    names = facts.linear_names
    asked = spec.lora.target_modules
    if isinstance(asked, str):
        return tuple(sorted(names))
    if not asked:
        raise InvalidRequestError("lora.target_modules is empty", param="lora.target_modules")
    unknown = sorted(set(asked) - names)
    if unknown:
        raise InvalidRequestError(
            f"{spec.model} has no module named {', '.join(unknown)}; it has {', '.join(sorted(names))}",
            code="unknown_target_modules",
            param="lora.target_modules",
        )
    return tuple(sorted(set(asked)))


def _resolve_learning_rate(spec: JobShape) -> float:
    if spec.training.learning_rate is not None:
        return spec.training.learning_rate
    multiplier = spec.method.supervised.hyperparameters.learning_rate_multiplier
    rate = BASE_LEARNING_RATE * (1.0 if multiplier == AUTO else multiplier)
    if not 0 < rate <= LARGEST_LEARNING_RATE:
        raise InvalidRequestError(
            f"learning_rate_multiplier {multiplier:g} makes the learning rate {rate:g}; max. {LARGEST_LEARNING_RATE:g}",
            param="method.supervised.hyperparameters.learning_rate_multiplier",
        )
    return rate


def _check_init(spec: JobShape) -> None:
    """The inits that read or split the base weights depend on how those are stored."""
    init, quantization = spec.lora.init, spec.quantization.type
    if init == "loftq" and quantization not in {"nf4", "fp4"}:
        raise InvalidRequestError("lora.init 'loftq' needs quantization.type 'nf4' or 'fp4'", param="lora.init")
    if init == "loftq" and spec.lora.use_dora:
        raise InvalidRequestError("lora.init 'loftq' and lora.use_dora exclude each other", param="lora.init")
    if init in INITS_OF_16_BIT and quantization != "none":
        raise InvalidRequestError(f"lora.init {init!r} needs quantization.type 'none'", param="lora.init")


def _resolve_batch(spec: JobShape) -> tuple[int, int, int]:
    """(batch, micro, accumulation) in rows, rows and steps, with batch = micro x accumulation x devices."""
    batch, devices = spec.method.supervised.hyperparameters.batch_size, spec.resources.count
    micro, accumulation = spec.training.micro_batch_size, spec.training.gradient_accumulation
    if batch == AUTO:
        share = max(1, DEFAULT_BATCH_ROWS // devices)
        rows = min(DEFAULT_MICRO_BATCH_ROWS, share) if micro == AUTO else micro
        steps = max(1, share // rows) if accumulation == AUTO else accumulation
        return rows * steps * devices, rows, steps
    if batch % devices:
        raise InvalidRequestError(
            _describe_uneven(batch, devices), param="method.supervised.hyperparameters.batch_size"
        )
    share = batch // devices
    if micro == AUTO and accumulation == AUTO:
        rows = max(n for n in range(1, min(share, DEFAULT_MICRO_BATCH_ROWS) + 1) if share % n == 0)
        return batch, rows, share // rows
    if micro == AUTO:
        assert accumulation != AUTO
        micro = _divide(batch, devices, by=accumulation, param="training.gradient_accumulation")
    elif accumulation == AUTO:
        accumulation = _divide(batch, devices, by=micro, param="training.micro_batch_size")
    elif micro * accumulation != share:
        raise InvalidRequestError(
            f"batch_size {batch} is not micro_batch_size {micro} x gradient_accumulation {accumulation}"
            f"{_on_each_of(devices)}",
            param="training.micro_batch_size",
        )
    return batch, micro, accumulation


def _divide(batch: int, devices: int, *, by: int, param: str) -> int:
    share = batch // devices
    if share % by:
        raise InvalidRequestError(f"{param} {by} does not divide batch_size {batch}{_on_each_of(devices)}", param=param)
    return share // by


def _describe_uneven(batch: int, devices: int) -> str:
    """With the nearest sizes that can be had."""
    below, above = batch - batch % devices, batch - batch % devices + devices
    nearest = [str(rows) for rows in (below, above) if 0 < rows <= LARGEST_BATCH_ROWS]
    return (
        f"batch_size {batch} cannot be divided evenly over {devices} devices; the nearest that can: "
        f"{' and '.join(nearest)}"
    )


def _on_each_of(devices: int) -> str:
    return f", which is {devices} devices' together" if devices > 1 else ""


def _resolve_length(spec: JobShape, facts: ModelFacts, tokens: TokenReport | None) -> int:
    asked = spec.training.max_seq_length
    if asked != AUTO:
        if asked > facts.max_context_tokens:
            raise InvalidRequestError(
                f"training.max_seq_length {asked} is over the context of {spec.model}, {facts.max_context_tokens}",
                param="training.max_seq_length",
            )
        return asked
    if tokens is None:
        return min(DEFAULT_MAX_SEQ_TOKENS, facts.max_context_tokens)
    return round_length(tokens.longest_row_tokens, context_tokens=facts.max_context_tokens)


def round_length(longest_row_tokens: int, *, context_tokens: int) -> int:
    """What 'auto' makes of the longest row: no row is cut but by the model's context."""
    return min(-(-longest_row_tokens // SEQ_MULTIPLE_TOKENS) * SEQ_MULTIPLE_TOKENS, context_tokens)


def _resolve_eval_steps(spec: JobShape, steps: int | None) -> int | None:
    """None without a validation file; 'auto' is eight evaluations a run."""
    if spec.validation_file is None or spec.training.eval_steps is None:
        return None
    if spec.training.eval_steps != AUTO:
        return spec.training.eval_steps
    return max(1, steps // DEFAULT_EVALS_PER_RUN) if steps else 50
