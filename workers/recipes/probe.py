"""Does the worst batch fit? Asked before the first step, so that a run that will die dies in its first minute.

One micro-batch of the longest examples goes forward and backward, beside gradients and optimizer states in their real
sizes: no micro-batch of the run needs more. It costs one micro-batch, and it leaves nothing behind: no gradient, no
figure, and every random state as it was; so the run stays the same function of its spec.
"""

import copy
import logging
from collections.abc import Callable
from typing import Any

import pyarrow.compute
import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from orchestrator.domain.plan import TrainingPlan
from workers.builders.optimizer import state_bytes
from workers.builders.rows import IGNORED_LABEL
from workers.checkpoints import RandomStates

logger = logging.getLogger(__name__)


class WorstBatchProbe(TrainerCallback):
    """Calls `on_done` after the probe. A run that goes on from a checkpoint has passed it before, and skips it."""

    def __init__(self, trainer: SFTTrainer, plan: TrainingPlan, *, on_done: Callable[[], None]) -> None:
        self._trainer, self._plan, self._on_done = trainer, plan, on_done

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step:
            return
        rows = choose_longest(self._trainer.train_dataset, self._plan.micro_batch_rows)
        batch = self._trainer.data_collator([self._trainer.train_dataset[number] for number in rows])
        shape = "x".join(str(size) for size in batch["input_ids"].shape)
        logger.info("trying the longest rows first: [%s] tokens", shape)
        try_batch(self._trainer, kwargs["model"], batch, plan=self._plan)
        self._on_done()


def choose_longest(examples: Dataset, count: int) -> list[int]:
    """The numbers of the `count` examples with most tokens; of equally long ones, the first."""
    lengths = pyarrow.compute.list_value_length(examples.data.column("input_ids")).to_pylist()
    return sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))[:count]


def try_batch(
    trainer: SFTTrainer, model: torch.nn.Module, batch: dict[str, torch.Tensor], *, plan: TrainingPlan
) -> None:
    """Forward and backward as in a later micro-batch of a later step, then everything as before.

    The trainer's own step is used, below `CountingTrainer`'s, whose meter must not count this.
    """
    random_states = RandomStates.capture()
    kept = {name: copy.deepcopy(getattr(trainer, name)) for name in ("_metrics", "_total_train_tokens", "hits")}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    # Written to, because memory that nobody touched takes no room on a CPU.
    states = [torch.ones(state_bytes(plan, weight), dtype=torch.uint8, device=weight.device) for weight in trained]
    for weight in trained:
        weight.grad = torch.full_like(weight, 0.0)
    trainer.current_gradient_accumulation_steps = plan.accumulation_steps
    try:
        count = (batch["labels"] != IGNORED_LABEL).sum()
        SFTTrainer.training_step(trainer, model, batch, count)
    finally:
        del states
        model.zero_grad(set_to_none=True)
        for name, value in kept.items():
            setattr(trainer, name, value)
        random_states.restore()
