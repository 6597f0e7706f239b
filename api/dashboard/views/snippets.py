"""What can be copied: a job as YAML, command and Python, and how a finished adapter is used elsewhere."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from api.schemas.adapters import AdapterOut

SUBMIT = "# the YAML beside this, saved as job.yaml\ntunepool submit job.yaml --follow"
_OPENAI_FIELDS = ("model", "training_file", "validation_file", "suffix", "seed", "method", "metadata")


@dataclass(frozen=True, kw_only=True)
class Snippet:
    title: str
    language: str
    text: str


def show_job(body: Mapping[str, Any], *, url: str) -> list[Snippet]:
    """A job's request in three forms. Only what differs from the defaults is in it."""
    text = yaml.safe_dump(dict(body), sort_keys=False, allow_unicode=True)
    own = {name: value for name, value in body.items() if name not in _OPENAI_FIELDS}
    call = [f"    {name}={_python(body[name])}," for name in _OPENAI_FIELDS if name in body]
    extra = [f"    extra_body={_python(own)},"] if own else []
    python = "\n".join(
        (
            "from openai import OpenAI",
            "",
            f'client = OpenAI(base_url="{url}/v1", api_key="tp_...")',
            "job = client.fine_tuning.jobs.create(",
            *call,
            *extra,
            ")",
        )
    )
    rest = json.dumps(body, indent=2, ensure_ascii=False)
    curl = (
        f"curl {url}/v1/fine_tuning/jobs \\\n"
        '  -H "Authorization: Bearer $TUNEPOOL_API_KEY" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        f"  -d {shlex.quote(rest)}"
    )
    return [
        Snippet(title="YAML", language="yaml", text=text),
        Snippet(title="CLI", language="shell", text=SUBMIT),
        Snippet(title="Python", language="python", text=python),
        Snippet(title="REST", language="shell", text=curl),
    ]


def show_adapter(adapter: AdapterOut, *, url: str) -> list[Snippet]:
    """How to fetch an adapter and what to do with it."""
    folder = f"adapters/{adapter.id}"
    peft = "\n".join(
        (
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f"base = {_python(adapter.base_model)}  # the name or folder of the base model on your machine",
            'model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", device_map="auto")',
            f"model = PeftModel.from_pretrained(model, {_python(folder)})",
            "tokenizer = AutoTokenizer.from_pretrained(base)",
        )
    )
    vllm = (
        f"vllm serve {shlex.quote(adapter.base_model)} --enable-lora \\\n"
        f"  --lora-modules {shlex.quote(f'{adapter.id}={folder}')}"
    )
    served = "\n".join(
        (
            "from openai import OpenAI",
            "",
            'client = OpenAI(base_url="http://localhost:8000/v1", api_key="unused")  # the vLLM server',
            "answer = client.chat.completions.create(",
            f"    model={_python(adapter.id)},",
            '    messages=[{"role": "user", "content": "Hello"}],',
            ")",
        )
    )
    again = "\n".join(
        (
            "from openai import OpenAI",
            "",
            f'client = OpenAI(base_url="{url}/v1", api_key="tp_...")',
            "client.fine_tuning.jobs.create(",
            f"    model={_python(adapter.name)},  # training goes on from this adapter",
            '    training_file="file-...",',
            ")",
        )
    )
    return [
        Snippet(title="CLI", language="shell", text=f"tunepool pull {shlex.quote(adapter.id)} {shlex.quote(folder)}"),
        Snippet(title="PEFT", language="python", text=peft),
        Snippet(title="vLLM", language="shell", text=vllm),
        Snippet(title="openai client", language="python", text=served),
        Snippet(title="Continue", language="python", text=again),
    ]


def _python(value: Any) -> str:
    """JSON's value as Python writes it."""
    return repr(value)
