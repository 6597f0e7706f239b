"""When is a checkpoint made, and who waits for it? Staging is done between two steps; uploading while training goes on.

At most one upload is under way. One that fails has used up its budget of retries, and then fails the run.
"""

import logging
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import TrainerState

from orchestrator.domain.protocol import AttemptSpec, CheckpointStored
from orchestrator.objects.layout import checkpoint_prefix
from workers.checkpoints import Progressed, upload_checkpoint, write_checkpoint
from workers.context import Context
from workers.failures import StorageError

logger = logging.getLogger(__name__)

GUESSED_BYTES_PER_SECOND = 20e6
"""Of an upload, until one was measured: a modest office line."""
GUESSED_OVERHEAD_SECONDS = 1.0


class CheckpointSaver:
    """Makes the checkpoints of one run. Used by the training thread only."""

    def __init__(self, spec: AttemptSpec, context: Context, *, trainable_bytes: int) -> None:
        self._spec, self._context = spec, context
        self._folder = Path(spec.work_dir) / "checkpoints"
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[float] | None = None
        self._last_at = time.monotonic()
        self.last_step = spec.resume_from.step if spec.resume_from else 0
        # Adam keeps two numbers for each weight.
        self.save_seconds = GUESSED_OVERHEAD_SECONDS + 3 * trainable_bytes / GUESSED_BYTES_PER_SECOND
        """How long a save takes, staging and upload together: a guess, then the longest that was seen."""

    def is_due(self, step: int) -> bool:
        """Whether the plan's cadence asks for a checkpoint at `step`, and none is still being uploaded."""
        self._collect(wait=False)
        if self._pending is not None or step <= self.last_step:
            return False
        plan = self._spec.plan
        by_steps = plan.checkpoint_steps is not None and step % plan.checkpoint_steps == 0
        seconds = time.monotonic() - self._last_at
        return by_steps or (plan.checkpoint_seconds is not None and seconds >= plan.checkpoint_seconds)

    def start(
        self,
        model: PeftModel,
        optimizer: Any,
        scheduler: Any,
        *,
        state: TrainerState,
        progressed: Progressed,
        metrics: dict[str, float],
    ) -> None:
        """Stage a checkpoint of this step now, and begin to upload it. Waits for an upload that is under way."""
        self._collect(wait=True)
        started_at, step = time.monotonic(), state.global_step
        folder = self._folder / f"step-{step:08d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_checkpoint(
            folder, model=model, optimizer=optimizer, scheduler=scheduler, state=state, progressed=progressed
        )
        self.last_step = step
        self._pending = self._executor.submit(self._upload, folder, step, metrics, started_at)

    def finish(self) -> None:
        """Wait for the upload under way. Raises StorageError when it fails."""
        self._collect(wait=True)

    def abandon(self) -> None:
        """The run is complete: wait for the upload under way, but its failure does not matter any more."""
        try:
            self._collect(wait=True)
        except StorageError as error:
            logger.warning("the last checkpoint was not stored: %s", error)

    def _collect(self, *, wait: bool) -> None:
        if self._pending is not None and (wait or self._pending.done()):
            pending, self._pending = self._pending, None
            self.save_seconds = max(self.save_seconds, pending.result())
            self._last_at = time.monotonic()

    def _upload(self, folder: Path, step: int, metrics: dict[str, float], started_at: float) -> float:
        prefix = checkpoint_prefix(self._context.key_prefix, step)
        manifest = {
            "step": step,
            "metrics": metrics,
            "job_id": self._spec.job_id,
            "attempt_id": self._spec.attempt_id,
            "spec": self._spec.spec_echo,
            "plan": self._spec.plan.model_dump(),
        }
        files = upload_checkpoint(folder, prefix, self._context.save, manifest)
        seconds = time.monotonic() - started_at
        self._context.report(
            CheckpointStored(step=step, key_prefix=prefix, files=files, metrics=metrics, save_seconds=seconds)
        )
        logger.info("checkpoint of step %d stored in %.1f s", step, seconds)
        shutil.rmtree(folder, ignore_errors=True)
        return seconds
