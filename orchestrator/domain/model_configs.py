"""What a config that came from outside may say: nothing that makes a loader run or fetch code, or cannot be sized.

Loaders have followed such keys although their caller said no (CVE-2026-4372, CVE-2026-5241), so they are refused here,
before any loader sees the file, and again by the workers.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.models import ModelFacts, TensorHeader, read_model_facts
from orchestrator.domain.strict_json import StrictJsonError, parse_json, show_name

CODE_KEYS = frozenset({"auto_map", "trust_remote_code", "custom_pipelines", "use_kernels", "kernel_config"})
UNSHAPED_KEYS = frozenset(
    {"_name_or_path", "transformers_version", "id2label", "label2id", "torch_dtype", "dtype", "quantization_config"}
)
"""They say nothing of a model's shape: where it came from, what wrote it, its labels; a plan says its own dtype."""
MAX_KEPT_BYTES = 256 * 1024
"""Of a config that is kept with a registration: it is read with every job. Known ones have 1 to 40 KiB."""
MAX_DIMENSION = 2**40
"""No width, count or length of a model comes near; larger numbers are a broken or hostile config."""


def parse_config(raw: bytes, name: str) -> dict[str, Any]:
    """A config file as an object. Raises InvalidRequestError (bad_model) naming the file, or remote_code."""
    try:
        config = parse_json(raw.decode())
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{name} is not UTF-8", code="bad_model") from None
    except StrictJsonError as error:
        raise InvalidRequestError(f"{name} is not JSON: {error.message}", code="bad_model") from None
    if not isinstance(config, dict):
        raise InvalidRequestError(f"{name} is not a JSON object", code="bad_model")
    key = find_code_key(config)
    if key is not None:
        raise InvalidRequestError(
            f"{name} asks for code of its own ({show_name(key)}), and remote code is never run", code="remote_code"
        )
    return config


def find_code_key(config: Mapping[str, Any]) -> str | None:
    """The first key, at any depth, that asks a loader to run or fetch code.

    An attention implementation with a slash would be fetched from the hub as a kernel.
    """
    stack: list[Any] = [config]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            for key, value in item.items():
                if key in CODE_KEYS or (key.endswith("implementation") and "/" in str(value)):
                    return str(key)
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return None


def trim_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What of a config is kept: its shape, for the tracer. None for one that is too long, or asks for code."""
    kept = {key: value for key, value in config.items() if key not in UNSHAPED_KEYS}
    if find_code_key(kept) is not None or len(json.dumps(kept)) > MAX_KEPT_BYTES:
        return None
    return kept


def read_facts(config: Mapping[str, Any], tensors: Iterable[TensorHeader], *, chat_template: bool) -> ModelFacts:
    """The facts of a base model. Raises InvalidRequestError (bad_model) for one that we cannot train or size."""
    if config.get("quantization_config"):
        raise InvalidRequestError(
            "the model is quantized already; register its 16-bit version and ask for a quantization in the job",
            code="bad_model",
        )
    try:
        facts = read_model_facts(config, tensors, chat_template=chat_template)
    except InvalidRequestError as error:
        raise InvalidRequestError(error.message, code="bad_model") from None
    except (TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError):
        raise InvalidRequestError("config.json has a value of the wrong type", code="bad_model") from None
    numbers = {name: value for name, value in facts if isinstance(value, int) and not isinstance(value, bool)}
    wrong = sorted(name for name, value in numbers.items() if not 0 < value < MAX_DIMENSION)
    if wrong:
        raise InvalidRequestError(f"config.json has an impossible {' and '.join(wrong)}", code="bad_model")
    return facts
