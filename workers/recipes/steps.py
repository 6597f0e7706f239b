"""What happens between two optimizer steps: figures out, requests to stop in, checkpoints made, states put back.

The trainer calls back in this order, which transformers 5.23's source was read for and the tests of resuming hold:
on_train_begin (optimizer and schedule exist), on_epoch_begin, first batch fetched, on_step_begin, forward and backward
(on_substep_end between micro-batches), optimizer, on_step_end, on_log, then on_evaluate. So a checkpoint is made after
the step was seen to be finite, and after its evaluation when it has one.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from orchestrator.domain.protocol import AttemptSpec, Metric, Peak, Phase, Progress, StopReason
from workers.builders.rows import IGNORED_LABEL
from workers.checkpoints import Progressed, RandomStates, Restored
from workers.context import Context
from workers.failures import DivergedError, StopRequested
from workers.gang import seed_step, sum_over_ranks
from workers.memory import read_peak
from workers.recipes.saving import CheckpointSaver

logger = logging.getLogger(__name__)

LOG_LINES_PER_RUN = 20
PEAK_GROWTH = 1.01
"""A new peak is reported when it is this much higher than the last."""


class RunLimit:
    """The budget or time limit of an attempt, in seconds since the process started, which is what is billed."""

    def __init__(self, spec: AttemptSpec, *, started_at: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = spec.run_limit_seconds
        self._reason = spec.run_limit_reason or "timeout"
        self._started_at, self._clock = started_at, clock

    def stop_before(self, ahead_seconds: float) -> StopReason | None:
        """A reason to stop now, when the limit would pass within the next `ahead_seconds`."""
        if self._seconds is None or self._clock() - self._started_at + ahead_seconds < self._seconds:
            return None
        return StopReason(reason=self._reason, save=True)


@dataclass
class TokenMeter:
    """Counts what the model is shown, by all ranks. `trained` are the tokens with loss up to the last reading, over the
    whole run and earlier attempts; `fresh` are those since then on this rank, and `seen` all but padding. Tensors while
    on a GPU, so that nothing waits."""

    trained: int = 0
    fresh: int | torch.Tensor = 0
    seen: int | torch.Tensor = 0

    def count(self, inputs: dict[str, Any]) -> None:
        self.fresh = self.fresh + (inputs["labels"][:, 1:] != IGNORED_LABEL).sum()
        mask = inputs.get("attention_mask")
        self.seen = self.seen + (inputs["input_ids"].numel() if mask is None else mask.sum())

    def read(self) -> tuple[int, int]:
        """(trained so far, seen since the last reading). All ranks have to read after the same step."""
        fresh, seen = sum_over_ranks([int(self.fresh), int(self.seen)])
        self.trained += fresh
        self.fresh = self.seen = 0
        return self.trained, seen


class StepCallback(TrainerCallback):
    """One run's bookkeeping. `state` and `metrics` are those of the last whole step."""

    def __init__(
        self,
        spec: AttemptSpec,
        context: Context,
        *,
        saver: CheckpointSaver,
        limit: RunLimit,
        meter: TokenMeter,
        restored: Restored | None,
        evaluates: bool,
    ) -> None:
        self._spec, self._context, self._saver, self._limit = spec, context, saver, limit
        self._meter, self._restored, self._evaluates = meter, restored, evaluates
        self._progressed = Progressed(random=RandomStates.capture(), trained_tokens=meter.trained, evaluation_due=False)
        self._save_after_evaluation = False
        self._step_started_at = self._checked_at = time.monotonic()
        self._step_seconds = self._longest_gap_seconds = 0.0
        self._seen_tokens = 0
        self._peak = Peak(allocated_bytes=0, reserved_bytes=0, device_bytes=0)
        self._parts: dict[str, Any] = {}
        self.metrics: dict[str, float] = {}
        self.eval_loss_before: float | None = None

    # ---- beginning -------------------------------------------------------------------------------------------------
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._parts = {"model": kwargs["model"], "optimizer": kwargs["optimizer"], "scheduler": kwargs["lr_scheduler"]}
        random_states = RandomStates.capture()
        if self._restored is not None:
            self._restored.load_into(**self._parts)
            random_states = self._restored.random_states()
        self._progressed = replace(
            self._progressed, random=random_states, trained_tokens=self._meter.trained, evaluation_due=False
        )
        self._context.report(Phase(phase="evaluating" if args.eval_on_start else "training"))
        self._progressed = replace(self._progressed, evaluation_due=bool(args.eval_on_start))
        self._report_progress(state)
        self._checked_at = time.monotonic()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """An epoch's data loader draws one random number when it begins, so between epochs the states go back here."""
        if self._restored is not None and self._restored.between_epochs:
            self._progressed.random.restore()
            self._restored = None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Within an epoch the states go back here, after the batches before were skipped and this one was fetched."""
        if self._restored is not None:
            self._progressed.random.restore()
            self._restored = None
        seed_step(self._spec.plan.seed, state.global_step)
        self._stop_if_asked()
        self._step_started_at = time.monotonic()

    # ---- every step ------------------------------------------------------------------------------------------------
    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._stop_if_asked()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._step_seconds = time.monotonic() - self._step_started_at
        trained, self._seen_tokens = self._meter.read()
        every = self._spec.plan.eval_steps
        last = state.global_step >= state.max_steps
        control.should_evaluate = self._evaluates and (last or (every is not None and state.global_step % every == 0))
        self._progressed = Progressed(
            random=RandomStates.capture(), trained_tokens=trained, evaluation_due=control.should_evaluate
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """The trainer also logs evaluations and its summary; a step's figures are those with a loss."""
        if logs is None or "loss" not in logs:
            return
        self._report_step(logs, state)
        if not math.isfinite(logs["loss"]) or not (args.fp16 or math.isfinite(logs.get("grad_norm", 0.0))):
            raise DivergedError(f"at step {state.global_step} the loss or its gradient is not a finite number any more")
        self._stop_if_asked()
        if state.global_step < state.max_steps and self._saver.is_due(state.global_step):
            self._save_after_evaluation = control.should_evaluate
            if not control.should_evaluate:
                self.save(state)
        if control.should_evaluate:
            self._context.report(Phase(phase="evaluating"))
        self._checked_at = time.monotonic()

    # ---- evaluation ------------------------------------------------------------------------------------------------
    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._stop_if_asked()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Report, and leave the random states as they were, so that evaluating changes nothing of the training."""
        loss = (metrics or {}).get("eval_loss", math.nan)
        if not math.isfinite(loss):
            raise DivergedError(f"at step {state.global_step} the validation loss is not a finite number")
        if state.global_step == 0:
            self.eval_loss_before = loss
        values = {"eval_loss": loss}
        if "eval_mean_token_accuracy" in (metrics or {}):
            values["eval_mean_token_accuracy"] = (metrics or {})["eval_mean_token_accuracy"]
        self.metrics |= values
        self._context.report(Metric(step=state.global_step, values=values))
        logger.info("step %d/%d validation loss %.4f", state.global_step, state.max_steps, loss)
        self._progressed.random.restore()
        self._progressed = replace(self._progressed, evaluation_due=False)
        if self._save_after_evaluation:
            self._save_after_evaluation = False
            self.save(state)
        self._context.report(Phase(phase="training"))
        self._checked_at = time.monotonic()

    # ---- parts -----------------------------------------------------------------------------------------------------
    def save(self, state: TrainerState) -> None:
        """Begin a checkpoint of the last whole step, unless there is one or nothing was trained yet."""
        if state.global_step > self._saver.last_step:
            self._saver.start(**self._parts, state=state, progressed=self._progressed, metrics=dict(self.metrics))

    @property
    def trained_tokens(self) -> int:
        return self._progressed.trained_tokens

    def _stop_if_asked(self) -> None:
        """Asked at least once per micro-batch. The limit is kept by the longest time that ever passed between two
        askings, plus a checkpoint's."""
        now = time.monotonic()
        self._longest_gap_seconds = max(self._longest_gap_seconds, now - self._checked_at)
        self._checked_at = now
        stop = self._context.should_stop() or self._limit.stop_before(
            self._longest_gap_seconds + self._saver.save_seconds
        )
        if stop is not None:
            raise StopRequested(stop)

    def _report_step(self, logs: dict[str, float], state: TrainerState) -> None:
        values = {
            "train_loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm", math.nan),
            "train_mean_token_accuracy": logs.get("mean_token_accuracy", math.nan),
            "epoch": logs["epoch"],
            "step_seconds": self._step_seconds,
            "tokens_per_second": self._seen_tokens / max(self._step_seconds, 1e-9),
        }
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        self.metrics |= values
        memory = {"peak_device_bytes": float(read_peak(self._spec.device).device_bytes)}
        self._context.report(Metric(step=state.global_step, values=values | memory))
        self._report_progress(state)
        self.report_peak()
        if state.global_step % max(1, state.max_steps // LOG_LINES_PER_RUN) == 0 or state.global_step == 1:
            logger.info(
                "step %d/%d loss %.4f learning rate %.2e, %.0f tokens/s",
                state.global_step,
                state.max_steps,
                logs["loss"],
                logs["learning_rate"],
                values["tokens_per_second"],
            )

    def report_peak(self) -> None:
        """When it has grown since it was reported."""
        peak = read_peak(self._spec.device)
        if peak.device_bytes <= PEAK_GROWTH * self._peak.device_bytes:
            return
        reserved = self._spec.device.reserved_bytes
        if self._spec.device.kind == "cpu" and self._peak.device_bytes <= reserved < peak.device_bytes:
            logger.warning("this run uses %d MiB, %d MiB are reserved", peak.device_bytes >> 20, reserved >> 20)
        self._peak = peak
        self._context.report(peak)

    def _report_progress(self, state: TrainerState) -> None:
        self._context.report(
            Progress(step=state.global_step, total_steps=state.max_steps, trained_tokens=self.trained_tokens)
        )
