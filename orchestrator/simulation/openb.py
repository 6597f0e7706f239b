"""The Alibaba GPU-sharing trace (cluster-trace-gpu-v2023, "openb"): nodes, and tasks with fractions of GPUs.

Source: Weng et al., "Beware of Fragmentation", USENIX ATC'23; repository alibaba/clusterdata. Shares of a GPU are
counted in thousandths ("milli"), CPU in thousandths of a core. Times are seconds from the start of the trace.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WHOLE_MILLI = 1000


class TraceError(ValueError):
    """A file is not the trace that it was taken for. The message names the file, the line and what is wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceNode:
    name: str
    cpu_milli: int
    memory_mib: int
    gpus: int
    model: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskShape:
    """What a task asks for. `gpu_milli` is per GPU, below 1000 only for a single one; no `models` means any."""

    cpu_milli: int
    memory_mib: int
    gpus: int
    gpu_milli: int
    models: frozenset[str] = frozenset()

    @property
    def total_milli(self) -> int:
        return self.gpus * self.gpu_milli


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceTask:
    """`arrives_at` and `ends_at` are None in lists without times. `is_best_effort` is the lower of two classes."""

    name: str
    shape: TaskShape
    arrives_at: float | None = None
    ends_at: float | None = None
    is_best_effort: bool = False


def read_nodes(path: Path) -> list[TraceNode]:
    """The nodes that have GPUs, in the order of the file. Raises TraceError."""
    nodes = [
        TraceNode(
            name=row["sn"],
            cpu_milli=_number(path, line, row, "cpu_milli"),
            memory_mib=_number(path, line, row, "memory_mib"),
            gpus=_number(path, line, row, "gpu"),
            model=row["model"] or "",
        )
        for line, row in _rows(path, {"sn", "cpu_milli", "memory_mib", "gpu", "model"})
    ]
    with_gpus = [node for node in nodes if node.gpus > 0]
    if not with_gpus:
        raise TraceError(f"{path} has no node with GPUs")
    return with_gpus


def read_tasks(path: Path) -> list[TraceTask]:
    """All tasks in the order of the file, those without a GPU too. Raises TraceError."""
    tasks = [_task(path, line, row) for line, row in _rows(path, {"name", "cpu_milli", "memory_mib", "num_gpu"})]
    if not tasks:
        raise TraceError(f"{path} has no tasks")
    return tasks


def _task(path: Path, line: int, row: dict[str, str]) -> TraceTask:
    gpus = _number(path, line, row, "num_gpu")
    milli = _number(path, line, row, "gpu_milli") if gpus else 0
    if gpus < 0 or (gpus and not 0 < milli <= WHOLE_MILLI):
        raise TraceError(f"{path}, line {line}: {gpus} GPUs of {milli} milli make no task")
    models = frozenset(name for name in (row.get("gpu_spec") or "").split("|") if name)
    shape = TaskShape(
        cpu_milli=_number(path, line, row, "cpu_milli"),
        memory_mib=_number(path, line, row, "memory_mib"),
        gpus=gpus,
        gpu_milli=milli,
        models=models,
    )
    has_times = bool(row.get("creation_time")) and bool(row.get("deletion_time"))
    return TraceTask(
        name=row["name"],
        shape=shape,
        arrives_at=float(row["creation_time"]) if has_times else None,
        ends_at=float(row["deletion_time"]) if has_times else None,
        is_best_effort=row.get("qos") == "BE",
    )


def _rows(path: Path, needed: set[str]) -> Iterator[tuple[int, dict[str, str]]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = needed - set(reader.fieldnames or ())
        if missing:
            raise TraceError(f"{path} has no column {', '.join(sorted(missing))}")
        yield from enumerate(reader, 2)


def _number(path: Path, line: int, row: dict[str, str], column: str) -> int:
    try:
        return int(float(row.get(column) or 0))
    except ValueError as error:
        raise TraceError(f"{path}, line {line}: {column} is {row.get(column)!r}, not a number") from error
