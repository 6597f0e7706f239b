"""The result file of a job: one CSV row per step, in the columns that OpenAI's clients know, then the others. Pure."""

import csv
import io
from collections.abc import Iterable

from orchestrator.domain.jobs import MetricRecord

FIRST_COLUMNS = ("step", "train_loss", "valid_loss", "valid_mean_token_accuracy", "learning_rate")
WIRE_NAMES = {
    "eval_loss": "valid_loss",
    "eval_mean_token_accuracy": "valid_mean_token_accuracy",
    "mean_token_accuracy": "train_mean_token_accuracy",
}


def write_results_csv(records: Iterable[MetricRecord]) -> bytes:
    """Of a step that two attempts trained, the later attempt's figures count: only they are in the adapter."""
    rows: dict[int, tuple[int, dict[str, float]]] = {}
    for record in records:
        attempt, values = rows.get(record.step, (0, {}))
        if record.attempt_number > attempt:
            attempt, values = record.attempt_number, {}
        if record.attempt_number == attempt:
            values.update({WIRE_NAMES.get(name, name): value for name, value in record.values.items()})
        rows[record.step] = (attempt, values)
    others = sorted({name for _, values in rows.values() for name in values} - set(FIRST_COLUMNS))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*FIRST_COLUMNS, *others], restval="", lineterminator="\n")
    writer.writeheader()
    for step in sorted(rows):
        writer.writerow({**rows[step][1], "step": step})
    return text.getvalue().encode()
