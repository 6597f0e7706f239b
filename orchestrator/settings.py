"""Every setting of the control plane, read once from the environment by the composition root and passed down as values.

Variables begin with TUNEPOOL_; one that is not known is refused, so that a typing mistake does not pass in silence.
"""

import os
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from orchestrator.domain.errors import InvalidRequestError

PREFIX = "TUNEPOOL_"
CLIENT_VARIABLES = frozenset({"TUNEPOOL_URL", "TUNEPOOL_API_KEY"})
"""Read by the command line and the Python client, not by the control plane."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True)

    environment: Literal["development", "production"] = "development"
    """In production unsafe secrets are refused, and PostgreSQL is needed."""
    data_dir: Path = Path(".tunepool")
    """Of the control plane: the SQLite file, the scheduler's health, caches."""
    log_format: Literal["console", "json"] = "console"
    """One line per event, plain or as JSON."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is less important is left out."""

    database_url: str = ""
    """Empty for SQLite in the data folder; otherwise a postgresql:// URL."""
    database_connections: int = Field(default=12, ge=2, le=200)
    """Threads of the API are as many. Of 8, 12 and 20, measured with 16 clients on two cores, 12 takes over 200
    submissions a second on both engines; more threads wait for one another."""

    s3_endpoint: str = ""
    """Where the object store is, such as https://s3.example.org; empty for AWS."""
    s3_public_endpoint: str = ""
    """What presigned URLs name, when nodes and users reach the object store under another address."""
    s3_region: str = "us-east-1"
    """As the object store calls it."""
    s3_bucket: str = "tunepool"
    """The pool's own; it is made when it is not there."""
    s3_access_key: str = ""
    """Of the control plane; workers have none."""
    s3_secret_key: SecretStr = SecretStr("")
    """To the access key."""
    presigned_seconds: int = Field(default=900, ge=60, le=86_400)
    """How long a download address is good for."""

    api_host: str = "127.0.0.1"
    """The address that the API listens on."""
    api_port: int = Field(default=8080, ge=0, le=65_535)
    """0 takes a free port, which the log names."""
    allowed_hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "[::1]")
    """Host headers that are answered; others get 400, which defeats DNS rebinding. '*' allows all."""
    max_body_bytes: int = Field(default=1_048_576, ge=1024)
    """Of a JSON body."""
    max_file_bytes: int = Field(default=512 * 1024**2, ge=1024)
    """Of a file in one request."""
    max_upload_bytes: int = Field(default=8 * 1024**3, ge=1024)
    """Of a file in parts."""
    rate_limit_per_minute: int = Field(default=6000, ge=1)
    """Requests of one API key, for each process of the API; a stream counts once."""
    min_training_rows: int = Field(default=10, ge=1)
    """A training file with fewer rows is refused."""

    ray_address: str = ""
    """Of the cluster's head, such as 10.0.0.5:6379; empty for training below the scheduler's own process."""
    ray_namespace: str = "tunepool"
    """Keeps pools apart that share a cluster."""
    ray_token: SecretStr = SecretStr("")
    """Ray's own authentication token."""

    model_roots: tuple[Path, ...] = ()
    """Folders below which a base model may be named by its path."""
    allow_hub: bool = True
    """Whether models may come from the Hugging Face hub."""
    hub_token: SecretStr = SecretStr("")
    """For gated and private models."""
    worker_cache_dir: Path | None = None
    """Where nodes keep downloaded models; below the data folder when empty."""

    estimator: Literal["traced", "closed_form"] = "traced"
    """How memory is estimated: by tracing the training step in a process of its own, or by formulas only."""
    estimator_command: tuple[str, ...] = ()
    """What traces; empty for `python -m workers.estimator` in this interpreter, which needs the workers' libraries."""
    estimator_start_seconds: float = Field(default=30, ge=0.1, le=600)
    """Until the tracer's first answer, which waits for its libraries to load; a later one is given up."""
    estimator_answer_seconds: float = Field(default=5, ge=0.1, le=600)
    """For each answer of a tracer that is warm."""
    estimator_wait_seconds: float = Field(default=10, ge=0.1, le=60)
    """How long a request waits for the tracer before formulas answer it."""
    estimator_memory_bytes: int = Field(default=2 * 1024**3, ge=256 * 1024**2)
    """A tracer that takes more is killed; one that keeps more than half of it is replaced by a new one."""

    placement: Literal["default", "fgd"] = "default"
    """How devices are chosen: the smallest sufficient one with the tightest hole, or by least fragmentation."""
    preemption: bool = True
    """Let teams take back what they were guaranteed, and higher classes go before lower ones, by stopping jobs."""
    borrower_fairness: bool = False
    """Let a team that borrows less stop jobs of one that borrows more."""
    turns_hours: tuple[float, ...] = ()
    """Levels of what a job has had, in device-hours, such as [1, 8]: among teams that borrow, jobs below a level go
    before those above it and may take their place. Empty for no turns."""
    turns_spare_larger: bool = False
    """With turns, stop nobody for a job that counts for less than he does: for pools of devices of many sizes."""
    moves: bool = True
    """Move smaller jobs to other devices out of the way of a large one that has waited long."""
    pin_after_seconds: int = Field(default=600, ge=1)
    """A job that has waited this long pins the device that it will get."""
    least_run_seconds: int = Field(default=600, ge=0)
    """No job is stopped for another one in the first seconds of its run."""

    autoscale: bool = False
    """Tell the cluster's autoscaler which whole devices waiting jobs lack (Ray's request_resources)."""
    autoscale_device_types: tuple[str, ...] = ()
    """Device types that the cluster can add; empty for any that the pool ever had."""
    idle_drain_minutes: float = Field(default=0, ge=0)
    """A node on which nothing has run for so long takes nothing new until a job needs it, so that it can be taken away;
    0 for never."""

    leader_lease_seconds: int = Field(default=15, ge=2, le=300)
    """After a scheduler died, another one goes on at the latest then."""
    attempt_lease_seconds: int = Field(default=120, ge=4, le=3600)
    """A worker that no scheduler asked for so long saves a checkpoint and ends."""
    stop_grace_seconds: int = Field(default=60, ge=1, le=3600)
    """What a worker that is asked to stop has to save in."""
    poll_seconds: float = Field(default=0.25, ge=0.02, le=10)
    """Between two looks of a loop."""
    launch_timeout_seconds: int = Field(default=300, ge=5, le=3600)
    """An attempt that has not reported by then is lost, and its job tried again."""
    retention_days: int = Field(default=90, ge=1)
    """Logs, metrics and the last checkpoint of an ended job go after this; the job, its bill and its adapter stay."""

    @field_validator("turns_hours")
    @classmethod
    def _turns_ascend(cls, hours: tuple[float, ...]) -> tuple[float, ...]:
        if any(low >= high for low, high in pairwise((0.0, *hours))):
            raise ValueError("levels are hours above 0, each higher than the one before")
        return hours

    @model_validator(mode="after")
    def _production_is_safe(self) -> "Settings":
        if self.environment != "production":
            return self
        unsafe = [
            name
            for name, value in (
                ("TUNEPOOL_S3_SECRET_KEY", self.s3_secret_key.get_secret_value()),
                ("TUNEPOOL_RAY_TOKEN", self.ray_token.get_secret_value()),
            )
            if value in {"", "changeme", "secret", "tunepool", "minioadmin"}
        ]
        if not self.database_url.startswith("postgresql"):
            unsafe.append("TUNEPOOL_DATABASE_URL (production needs PostgreSQL)")
        if unsafe:
            raise ValueError(f"unsafe or missing in production: {', '.join(unsafe)}")
        return self

    @property
    def resolved_database_url(self) -> str:
        """SQLAlchemy's URL: psycopg 3 for PostgreSQL, a file in the data folder for SQLite."""
        if not self.database_url:
            return f"sqlite:///{self.data_dir.absolute() / 'tunepool.db'}"
        for old in ("postgres://", "postgresql://"):
            if self.database_url.startswith(old):
                return "postgresql+psycopg://" + self.database_url.removeprefix(old)
        return self.database_url


def load_settings(**overrides: object) -> Settings:
    """Read the environment. Raises InvalidRequestError naming each variable that is not known."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | CLIENT_VARIABLES
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise InvalidRequestError(f"unknown environment variables: {', '.join(unknown)}")
    return Settings(**overrides)  # type: ignore[arg-type]
