"""`python -m workers.estimator < requests.jsonl > answers.jsonl`: a line in, a line out, flushed at once.

The same process serves as a warm server: whoever holds its pipes writes a line and reads a line. A bad line gets an
answer with `error` and never stops the run.
"""

import json
import sys
import warnings
from typing import IO, Any

from pydantic import ValidationError

from workers.estimator.request import Request, describe_error


def answer_line(line: str) -> dict[str, Any]:
    """The answer to one line, or what is wrong with it."""
    from workers.estimator.answer import estimate  # noqa: PLC0415
    from workers.estimator.build import EstimateError  # noqa: PLC0415

    identity = None
    try:
        fields = json.loads(line)
        identity = fields.get("id") if isinstance(fields, dict) else None
        return {"id": identity, **estimate(Request.model_validate(fields)).as_line()}
    except json.JSONDecodeError as error:
        return {"id": identity, "error": f"line: not JSON: {error}"}
    except ValidationError as error:
        return {"id": identity, "error": describe_error(error)}
    except EstimateError as error:
        return {"id": identity, "error": str(error)}
    except Exception as error:  # a bad line never stops the run
        return {"id": identity, "error": f"model_config: cannot be traced: {type(error).__name__}: {str(error)[:300]}"}


def serve(requests: IO[str], answers: IO[str]) -> None:
    for line in requests:
        if line.strip():
            answers.write(json.dumps(answer_line(line)) + "\n")
            answers.flush()


def main() -> int:
    warnings.simplefilter("ignore")
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints must not come between the answers
    serve(sys.stdin, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
