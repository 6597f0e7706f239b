"""The messages between the control plane and one attempt: one in (AttemptSpec), reports back, pulled by cursor.

`PROTOCOL_VERSION` is checked by both sides; a field is added with a default, never renamed, so that workers one version
older finish their jobs.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.domain.batches import Lengths
from orchestrator.domain.failures import FailureKind
from orchestrator.domain.plan import TrainingPlan

PROTOCOL_VERSION = 1


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class RemoteFile(Message):
    """An object to download: `url` is a presigned GET, `sha256` in hex (empty when not known beforehand)."""

    name: str
    url: str
    size_bytes: int
    sha256: str


class ModelSource(Message):
    """Where the worker finds the base model. `path` for a folder on the node, `files` for S3, `hub_id` for the hub.

    `revision` is the commit of a hub model, and a content hash of the others; it names the node's cache folder.
    """

    name: str
    kind: Literal["path", "s3", "hub"]
    revision: str
    path: str | None = None
    files: tuple[RemoteFile, ...] = ()
    hub_id: str | None = None
    hub_token: str | None = Field(default=None, repr=False)


class UploadGrant(Message):
    """Leave to write objects whose key starts with `key_prefix`, by presigned POST, until `expires_at_unix`."""

    url: str
    fields: dict[str, str] = Field(repr=False)
    key_prefix: str
    expires_at_unix: int


class CheckpointSource(Message):
    """A complete checkpoint to go on from; `files` are all that its manifest lists."""

    step: int
    files: tuple[RemoteFile, ...]


class ParentSource(Message):
    """Another job's adapter weights to start from, when there is no checkpoint of the job's own."""

    name: str
    weights: RemoteFile


class DeviceGrant(Message):
    """The share of one device that the attempt may use."""

    device_id: str
    kind: Literal["cpu", "cuda"]
    index: int
    device_bytes: int
    reserved_bytes: int


class AttemptSpec(Message):
    """All that an attempt needs. It holds no database address and no API key."""

    protocol_version: int = PROTOCOL_VERSION
    job_id: str
    attempt_id: str
    number: int
    plan: TrainingPlan
    model: ModelSource
    training_file: RemoteFile
    validation_file: RemoteFile | None
    resume_from: CheckpointSource | None
    device: DeviceGrant
    upload: UploadGrant
    lease_seconds: int
    run_limit_seconds: int | None
    """Seconds of training after which the worker stops by itself, with a checkpoint (budget or time limit)."""
    run_limit_reason: Literal["budget_exceeded", "timeout"] | None
    work_dir: str
    cache_dir: str
    probe_environment: dict[str, str] = {}
    spec_echo: dict[str, Any] = {}
    """The job's spec and lineage as they go into the adapter's manifest."""
    parent: ParentSource | None = None
    more_devices: tuple[DeviceGrant, ...] = ()
    """Beside `device`, on the same node and of the same kind: one training process each, which together train one
    adapter (`TrainingPlan.devices` of them)."""

    @property
    def devices(self) -> tuple[DeviceGrant, ...]:
        """One per training process, in the order of their ranks."""
        return (self.device, *self.more_devices)


class StopReason(Message):
    """Why an attempt is asked to stop. `save` asks for a checkpoint first."""

    reason: Literal["cancelled", "paused", "budget_exceeded", "timeout", "lease_expired", "shutdown"]
    save: bool


class LogLine(Message):
    kind: Literal["log"] = "log"
    stream: Literal["stdout", "stderr", "tunepool"]
    level: Literal["info", "warn", "error"] = "info"
    text: str


class Metric(Message):
    """Figures of one step. Names: train_loss, eval_loss, learning_rate, grad_norm, tokens_per_second, epoch,
    peak_device_bytes (of the process so far), …"""

    kind: Literal["metric"] = "metric"
    step: int
    values: dict[str, float]


class Progress(Message):
    kind: Literal["progress"] = "progress"
    step: int
    total_steps: int
    trained_tokens: int


class Phase(Message):
    """What the worker is doing now. Billing starts when the attempt is launched, whatever its phase."""

    kind: Literal["phase"] = "phase"
    phase: Literal[
        "starting", "downloading", "loading_model", "tokenizing", "training", "evaluating", "saving", "uploading"
    ]


class StoredFile(Message):
    name: str
    size_bytes: int
    sha256: str


class CheckpointStored(Message):
    """A checkpoint whose manifest, written last, is in the object store."""

    kind: Literal["checkpoint"] = "checkpoint"
    step: int
    key_prefix: str
    files: tuple[StoredFile, ...]
    metrics: dict[str, float]
    save_seconds: float


class Peak(Message):
    """Highest memory so far, in bytes. On a CPU device `device_bytes` is the process's peak resident set."""

    kind: Literal["peak"] = "peak"
    allocated_bytes: int
    reserved_bytes: int
    device_bytes: int


class Succeeded(Message):
    """Training ended and the adapter's files are stored under `key_prefix`; the control plane verifies them."""

    kind: Literal["succeeded"] = "succeeded"
    key_prefix: str
    files: tuple[StoredFile, ...]
    step: int
    trained_tokens: int
    metrics: dict[str, float]
    lineage: dict[str, Any]
    """Base model revision, tokenizer, template and data set hashes, versions: goes into the manifest."""


class Failed(Message):
    kind: Literal["failed"] = "failed"
    failure: FailureKind
    message: str
    detail: str = ""
    """The traceback, for the log; never shown as the error."""


class Stopped(Message):
    """The worker stopped because it was asked to, or ran into its limit."""

    kind: Literal["stopped"] = "stopped"
    reason: Literal["cancelled", "paused", "budget_exceeded", "timeout", "lease_expired", "shutdown"]
    step: int


Report = Annotated[
    LogLine | Metric | Progress | Phase | CheckpointStored | Peak | Succeeded | Failed | Stopped,
    Field(discriminator="kind"),
]
OUTCOME_KINDS = frozenset({"succeeded", "failed", "stopped"})


class Entry(Message):
    """A report in the journal. `seq` counts from 1 without holes; `at_unix` is the worker's clock, for display only."""

    seq: int
    at_unix: float
    report: Report


class Pulled(Message):
    """The answer to a pull: entries after the cursor, in order, and whether the training process still runs."""

    entries: tuple[Entry, ...]
    alive: bool
    exit_code: int | None
    more: bool
    """There are further entries beyond the limit of one answer."""


class ValidationSpec(Message):
    """Tokenize files with the model's tokenizer and template. No device is needed."""

    job_id: str
    model: ModelSource
    training_file: RemoteFile
    validation_file: RemoteFile | None
    max_seq_tokens: int | None
    context_tokens: int
    cache_dir: str
    packing: bool = False
    """Whether rows of the training file are packed, up to `max_seq_tokens`."""


class FileProblem(Message):
    """`param` is training_file or validation_file; `line` counts from 1, 0 when the whole file is meant."""

    param: Literal["training_file", "validation_file"]
    line: int
    code: str
    message: str


class TokenCounts(Message):
    rows: int
    total_tokens: int
    trained_tokens: int
    longest_row_tokens: int
    longest_row_line: int
    lengths: Lengths = ()
    """Of the examples that rows become: the rows, or what they are packed into."""


class ValidationResult(Message):
    training: TokenCounts | None
    validation: TokenCounts | None
    problems: tuple[FileProblem, ...]
