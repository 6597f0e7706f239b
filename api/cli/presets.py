"""What settings fit what a job is for; each with its reason, which becomes a comment of the job file."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from api.cli.jobtext import JobField

QUANTIZED_FROM_PARAMETERS = 3_000_000_000
"""16-bit weights of smaller models fit on most devices; quantizing them saves little and costs time."""
LOWER_RATE_FROM_PARAMETERS = 20_000_000_000
LOWER_RATE = 1e-4
"""QLoRA's rate for 33B and 65B (Dettmers et al. 2023, table 9); smaller models keep the default."""
MANY_ROWS = 20_000
TRY_STEPS = 20
GB = 10**9


class Goal(StrEnum):
    TRY = "try"
    STYLE = "style"
    TASK = "task"
    KNOWLEDGE = "knowledge"


GOALS: dict[Goal, str] = {
    Goal.TRY: "a quick look whether everything works, and how fast",
    Goal.STYLE: "small: a tone or a format, some hundred rows and more",
    Goal.TASK: "medium: a task or a domain, some thousand rows and more",
    Goal.KNOWLEDGE: "large: new knowledge, tens of thousands of rows and more",
}
RANKS = {Goal.TRY: 8, Goal.STYLE: 8, Goal.TASK: 16, Goal.KNOWLEDGE: 64}
"""Ranks from 4 to 8 sufficed for narrow tasks (Hu et al. 2021, section 7.2); QLoRA took 64 (Dettmers et al. 2023,
appendix B), and knowledge needs high ranks (Biderman et al. 2024, section 4)."""
RANK_REASONS = {
    Goal.TRY: "the adapter's rank; small, as nothing is to be learned yet",
    Goal.STYLE: "the adapter's rank; style and format need little",
    Goal.TASK: "the adapter's rank; raise it when the loss stays high, lower it when rows are few",
    Goal.KNOWLEDGE: "the adapter's rank; knowledge needs room, and room needs rows",
}
EPOCHS = {Goal.STYLE: 3, Goal.TASK: 3, Goal.KNOWLEDGE: 2}
_SIZE = re.compile(r"(?<![a-z0-9])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])")


@dataclass(frozen=True)
class Task:
    """`parameters` of the base model, where the pool knows them; `rows` of the training file."""

    model: str
    training_file: str
    goal: Goal
    rows: int
    parameters: int | None = None


def describe_task(task: Task, path: str) -> str:
    """The comment that opens the file."""
    return (
        f"Made for '{task.goal}': {GOALS[task.goal]}.\n\n"
        f"  tunepool estimate {path}          memory, time and cost, without running it\n"
        f"  tunepool submit {path} --follow   upload the data, train, watch\n\n"
        "`model` and `training_file` would do; whatever else is here may be changed or left out."
    )


def choose_fields(task: Task) -> list[JobField]:
    return [
        JobField(("model",), task.model, "a name from `tunepool models`, a hub id, or a fine-tuned model"),
        JobField(
            ("training_file",),
            task.training_file,
            f'{task.rows:,} rows of {{"messages": […]}}; the loss counts on the assistant\'s words only',
        ),
        *_choose_epochs(task),
        JobField(("lora", "r"), RANKS[task.goal], RANK_REASONS[task.goal]),
        JobField(("lora", "alpha"), "auto", "the update is scaled by alpha / r; auto is twice the rank"),
        JobField(("lora", "target_modules"), "all-linear", "every linear layer learns more than attention alone"),
        *_choose_quantization(task),
        *_choose_training(task),
    ]


def _choose_epochs(task: Task) -> Iterator[JobField]:
    if task.goal is Goal.TRY:
        return
    epochs = 1 if task.rows > MANY_ROWS else EPOCHS[task.goal]
    why = "one pass is enough over so many rows" if epochs == 1 else "passes over the file; more of them overfit"
    yield JobField(("hyperparameters", "n_epochs"), epochs, why)
    yield JobField(("hyperparameters", "batch_size"), "auto", "rows per optimizer step; auto is 8")


def _choose_quantization(task: Task) -> Iterator[JobField]:
    parameters = task.parameters or guess_parameters(task.model)
    if parameters is None:
        yield JobField(("quantization", "type"), "none", "nf4 makes it QLoRA: a quarter of the weights' memory")
        return
    whole, quarter = 2 * parameters / GB, parameters / 2 / GB
    sizes = f"16-bit weights take {whole:.1f} GB, nf4 about {quarter:.1f} GB"
    if parameters < QUANTIZED_FROM_PARAMETERS:
        yield JobField(("quantization", "type"), "none", f"{sizes}: small enough as it is")
        return
    yield JobField(("quantization", "type"), "nf4", f"QLoRA: {sizes}, and steps take longer")
    yield JobField(("quantization", "double_quant"), True, "saves another 0.4 bits per weight")


def _choose_training(task: Task) -> Iterator[JobField]:
    parameters = task.parameters or guess_parameters(task.model) or 0
    if task.goal is Goal.TRY:
        yield JobField(
            ("training", "max_steps"), TRY_STEPS, "stop early, whatever the epochs say; delete it afterwards"
        )
    if parameters >= LOWER_RATE_FROM_PARAMETERS:
        yield JobField(("training", "learning_rate"), LOWER_RATE, "half the default of 2e-4: large models take less")
    else:
        text = "times the default of 2e-4, which suits LoRA up to 13B; halve it when the loss jumps"
        yield JobField(("hyperparameters", "learning_rate_multiplier"), "auto", text)
    yield JobField(("training", "scheduler"), "cosine", "the rate falls slowly, then fast, then slowly to nothing")
    yield JobField(("training", "max_seq_length"), "auto", "the longest row, so nothing is cut and nothing wasted")
    yield JobField(("training", "gradient_checkpointing"), "auto", "computes activations twice where memory is short")


def guess_parameters(model: str) -> int | None:
    """Of a name such as 'Llama-3.1-8B-Instruct': 8,000,000,000; None when it does not say."""
    found = _SIZE.findall(model.lower().replace("_", "-"))
    if not found:
        return None
    number, unit = found[-1]
    return int(float(number) * (10**9 if unit == "b" else 10**6))
