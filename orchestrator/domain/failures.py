"""Why an attempt failed: stored facts, never raised.

Every kind says whose fault it is, whether trying again can help, and what the user can do. Workers choose the kind by
exception (`workers.failures`), never by exit code; the control plane adds the kinds that only it can see.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Blame(StrEnum):
    """Who pays for the time that the failure cost."""

    USER = "user"
    PLATFORM = "platform"
    NOBODY = "nobody"


class FailureKind(StrEnum):
    BAD_DATA = "bad_data"
    OUT_OF_MEMORY = "out_of_memory"
    DIVERGED = "loss_not_finite"
    USER = "user_error"
    MODEL = "model_load_failed"
    STORAGE = "storage_unavailable"
    PLATFORM = "platform_error"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    BUDGET = "budget_exceeded"
    LOST = "worker_lost"
    BAD_ARTIFACT = "bad_artifact"


@dataclass(frozen=True, kw_only=True)
class FailureRule:
    blame: Blame
    retryable: bool
    hint: str


FAILURE_RULES: Mapping[FailureKind, FailureRule] = {
    FailureKind.BAD_DATA: FailureRule(
        blame=Blame.USER, retryable=False, hint="Fix the row that the message names and upload the file again."
    ),
    FailureKind.OUT_OF_MEMORY: FailureRule(
        # The bytes were our estimate's, never the user's. `domain.remedies` decides what follows: not the same again.
        blame=Blame.PLATFORM,
        retryable=False,
        hint="The job is tried again by itself with a smaller training.micro_batch_size, with "
        "training.gradient_checkpointing or with more memory, as far as that goes.",
    ),
    FailureKind.DIVERGED: FailureRule(
        blame=Blame.USER,
        retryable=False,
        hint="Lower the learning rate, or set training.max_grad_norm; look at the metrics just before the last step.",
    ),
    FailureKind.USER: FailureRule(
        blame=Blame.USER, retryable=False, hint="Change the setting that the message names and submit again."
    ),
    FailureKind.MODEL: FailureRule(
        blame=Blame.USER,
        retryable=False,
        hint="Check that the base model is complete, holds safetensors, and is a causal language model.",
    ),
    FailureKind.STORAGE: FailureRule(
        blame=Blame.PLATFORM, retryable=True, hint="Object storage did not answer; the job is tried again by itself."
    ),
    FailureKind.PLATFORM: FailureRule(
        blame=Blame.PLATFORM,
        retryable=True,
        hint="Something in the pool went wrong; the job is tried again by itself. If it fails again, send the logs to "
        "the pool's admin.",
    ),
    FailureKind.CANCELLED: FailureRule(blame=Blame.USER, retryable=False, hint="The job was cancelled on request."),
    FailureKind.TIMEOUT: FailureRule(
        blame=Blame.USER,
        retryable=False,
        hint="The job ran into its time limit; raise resources.max_runtime_seconds or train fewer steps.",
    ),
    FailureKind.BUDGET: FailureRule(
        blame=Blame.USER,
        retryable=False,
        hint="The job reached max_cost_usd; its last checkpoint is kept. Submit again with a larger limit.",
    ),
    FailureKind.LOST: FailureRule(
        blame=Blame.PLATFORM,
        retryable=True,
        hint="Contact with the worker was lost; the job goes on from its last checkpoint by itself.",
    ),
    FailureKind.BAD_ARTIFACT: FailureRule(
        blame=Blame.PLATFORM,
        retryable=True,
        hint="The uploaded adapter did not pass its checks; the job is tried again by itself.",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How an attempt failed. `message` is one or two sentences for the user, without training data."""

    kind: FailureKind
    message: str

    @property
    def rule(self) -> FailureRule:
        return FAILURE_RULES[self.kind]
