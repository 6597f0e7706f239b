"""A base model is found once per node and refused when it would run code, wherever it comes from."""

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.protocol import ModelSource, RemoteFile
from tests.support.models import ROOT, build_tiny_model
from tests.support.training import describe
from workers.context import LocalContext
from workers.failures import ModelError, StorageError
from workers.models import resolve_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def no_fetch(remote: RemoteFile, target: Path) -> None:
    raise AssertionError(f"{remote.name} was fetched to {target}")


def edit_json(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_is_used_where_it_is(tmp_path: Path, tiny_model: Path) -> None:
    source = ModelSource(name="tiny", kind="path", revision="r", path=str(tiny_model))
    assert resolve_model(source, tmp_path, fetch=no_fetch) == tiny_model
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}}, "auto_map"),
        ("config.json", {"text_config": {"auto_map": {}}}, "auto_map"),
        ("config.json", {"trust_remote_code": True}, "trust_remote_code"),
        ("config.json", {"_attn_implementation": "someone/kernel"}, "kernel from the hub"),
        ("config.json", {"kernel_config": {}}, "kernel_config"),
        ("config.json", {"quantization_config": {"quant_method": "gptq"}}, "quantized already"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["tokenization.Evil", None]}}, "auto_map"),
    ],
)
def test_a_model_that_brings_code_or_is_quantized_is_refused(
    tmp_path: Path, file: str, changes: dict[str, Any], words: str
) -> None:
    folder = build_tiny_model(tmp_path / "model")
    edit_json(folder / file, changes)
    source = ModelSource(name="tiny", kind="path", revision="r", path=str(folder))
    with pytest.raises(ModelError, match=words):
        resolve_model(source, tmp_path, fetch=no_fetch)


def test_a_model_without_safetensors_or_config_is_refused(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "model")
    source = ModelSource(name="tiny", kind="path", revision="r", path=str(folder))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no safetensors"):
        resolve_model(source, tmp_path, fetch=no_fetch)
    assert resolve_model(source, tmp_path, fetch=no_fetch, weights=False) == folder
    (folder / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="not a JSON object"):
        resolve_model(source, tmp_path, fetch=no_fetch)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve_model(source, tmp_path, fetch=no_fetch)


def stored_model(folder: Path) -> ModelSource:
    """A model in an object store, as file: addresses."""
    files = tuple(describe(path) for path in sorted(folder.iterdir()))
    return ModelSource(name="team/tiny model", kind="s3", revision="c0ffee", files=files)


def test_processes_of_a_node_download_a_model_once(tmp_path: Path, tiny_model: Path) -> None:
    source, asked, lock = stored_model(tiny_model), [], threading.Lock()

    def fetch(remote: RemoteFile, target: Path) -> None:
        with lock:
            asked.append(remote.name)
        LocalContext(tmp_path / "context").fetch(remote, target)

    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: resolve_model(source, tmp_path / "cache", fetch=fetch), range(4)))
    assert len(folders) == 1
    folder = folders.pop()
    assert folder.parent == tmp_path / "cache"
    assert sorted(asked) == sorted(path.name for path in tiny_model.iterdir())
    assert {path.name for path in folder.iterdir()} == {path.name for path in tiny_model.iterdir()} | {".complete"}


def test_counting_tokens_downloads_no_weights(tmp_path: Path, tiny_model: Path) -> None:
    fetch = LocalContext(tmp_path / "context").fetch
    folder = resolve_model(stored_model(tiny_model), tmp_path / "cache", fetch=fetch, weights=False)
    assert not list(folder.glob("*.safetensors"))
    whole = resolve_model(stored_model(tiny_model), tmp_path / "cache", fetch=fetch)
    assert whole != folder
    assert list(whole.glob("*.safetensors"))


def test_a_download_that_breaks_off_is_not_taken_for_a_model(tmp_path: Path, tiny_model: Path) -> None:
    source = stored_model(tiny_model)
    spoilt = source.files[-1].model_copy(update={"sha256": "0" * 64})
    broken = source.model_copy(update={"files": (*source.files[:-1], spoilt)})
    fetch = LocalContext(tmp_path / "context").fetch
    with pytest.raises(StorageError):
        resolve_model(broken, tmp_path / "cache", fetch=fetch)
    assert (resolve_model(source, tmp_path / "cache", fetch=fetch) / source.files[-1].name).is_file()


@pytest.mark.parametrize("name", ["../outside.json", "/etc/passwd"])
def test_a_file_cannot_leave_the_cache(tmp_path: Path, tiny_model: Path, name: str) -> None:
    source = stored_model(tiny_model)
    source = source.model_copy(update={"files": (source.files[0].model_copy(update={"name": name}),)})
    with pytest.raises(ModelError, match="impossible name"):
        resolve_model(source, tmp_path / "cache", fetch=no_fetch)


HUB_SCRIPT = """
import sys
from pathlib import Path
from orchestrator.domain.protocol import ModelSource
from workers.models import resolve_model
from workers.failures import ModelError
for asked in sys.argv[1:]:
    hub_id, revision = asked.split("@")
    try:
        print(resolve_model(ModelSource(name="n", kind="hub", hub_id=hub_id, revision=revision), Path("c"), fetch=None))
    except ModelError as error:
        print("refused:", error)
"""


def test_the_hubs_cache_on_the_node_is_honoured(tmp_path: Path) -> None:
    """HF_HOME and HF_HUB_OFFLINE are read by the library when it is imported, hence another process."""
    snapshot = build_tiny_model(tmp_path / "hub" / "models--org--tiny" / "snapshots" / COMMIT)
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    asked = [f"org/tiny@{COMMIT}", f"org/tiny@{'f' * 40}", f"org/other@{COMMIT}", f"not/a/repository@{COMMIT}"]
    done = subprocess.run(
        [sys.executable, "-c", HUB_SCRIPT, *asked],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found, unknown_revision, unknown_model, impossible_name = done.stdout.splitlines()
    assert found == str(snapshot)
    assert unknown_revision.startswith("refused: org/tiny is not on this node")
    assert unknown_model.startswith("refused: org/other is not on this node")
    assert impossible_name.startswith("refused: the hub has no not/a/repository")
