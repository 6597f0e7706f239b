"""What must be kept so that a run goes on exactly where it was? Written whole or not at all, read back checked.

A checkpoint is safetensors and JSON, never a pickle: the adapter, the optimizer's tensors, the states of all random
generators, and everything else as plain JSON. It exists only when its manifest does, which is uploaded last.
"""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import TrainerState

from orchestrator.domain.protocol import CheckpointSource, RemoteFile, StoredFile
from workers.failures import StorageError

VERSION = 1
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
OPTIMIZER_FILE = "optimizer.safetensors"
RANDOM_FILE = "rng.safetensors"
STATE_FILE = "state.json"
CHECKPOINT_FILES = (*ADAPTER_FILES, OPTIMIZER_FILE, RANDOM_FILE, STATE_FILE)
MANIFEST_FILE = "manifest.json"
TRAINER_STATE_FILE = "trainer_state.json"
"""Where transformers' trainer looks for the step to go on from; made from state.json on the way back."""

Save = Callable[[Path, str], StoredFile]
Fetch = Callable[[RemoteFile, Path], None]


@dataclass(frozen=True)
class RandomStates:
    """The states of every generator that training draws from: Python's, numpy's, torch's on the CPU and each GPU."""

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    torch_cpu: torch.Tensor
    torch_cuda: tuple[torch.Tensor, ...]

    @classmethod
    def capture(cls) -> "RandomStates":
        """Some 20 microseconds without CUDA."""
        return cls(
            python=random.getstate(),
            numpy=dict(np.random.get_state(legacy=False)),
            torch_cpu=torch.get_rng_state(),
            torch_cuda=tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else (),
        )

    def restore(self) -> None:
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda and len(self.torch_cuda) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(list(self.torch_cuda))


@dataclass(frozen=True, kw_only=True)
class Progressed:
    """What the recipe itself must remember at a step, beside the trainer's own state."""

    random: RandomStates
    trained_tokens: int
    evaluation_due: bool
    """The step's evaluation had not been done when the checkpoint was made."""


def write_checkpoint(
    folder: Path, *, model: PeftModel, optimizer: Any, scheduler: Any, state: TrainerState, progressed: Progressed
) -> None:
    """Write all files of a checkpoint of `state.global_step` into an empty folder. Nothing is uploaded."""
    save_adapter(model, folder)
    tensors, settings = flatten_optimizer(optimizer.state_dict())
    save_file(tensors, folder / OPTIMIZER_FILE)
    states = progressed.random
    save_file(
        {
            "numpy": torch.from_numpy(states.numpy["state"]["key"].copy()),
            "torch_cpu": states.torch_cpu,
            **{f"torch_cuda_{number}": value for number, value in enumerate(states.torch_cuda)},
        },
        folder / RANDOM_FILE,
    )
    plain = {
        "version": VERSION,
        "parameters": _trainable_names(model),
        "optimizer": settings,
        "scheduler": scheduler.state_dict(),
        "trainer": asdict(state) | {"log_history": [], "stateful_callbacks": {}},
        "python_random": states.python,
        "numpy_random": {
            name: states.numpy["state"][name] if name == "pos" else states.numpy[name]
            for name in ("bit_generator", "pos", "has_gauss", "gauss")
        },
        "trained_tokens": progressed.trained_tokens,
        "evaluation_due": progressed.evaluation_due,
    }
    (folder / STATE_FILE).write_text(json.dumps(plain))


def save_adapter(model: PeftModel, folder: Path, *, initial: Path | None = None) -> None:
    """Write PEFT's own two files. With `initial`, the folder of the adapter before training, an adapter that was
    taken out of the base weights (PiSSA, OLoRA) is turned into one that fits the untouched base."""
    model.save_pretrained(
        str(folder),
        save_embedding_layers=False,
        path_initial_model_for_weight_conversion=str(initial) if initial else None,
    )
    for path in folder.iterdir():
        if path.name not in ADAPTER_FILES:
            path.unlink()


def upload_checkpoint(folder: Path, prefix: str, save: Save, manifest: Mapping[str, Any]) -> tuple[StoredFile, ...]:
    """Store the parts, then the manifest that lists them with their checksums: until then the checkpoint is not there.

    `prefix` ends in a slash. Safe to repeat: every file is simply written again.
    """
    stored = tuple(save(folder / name, prefix + name) for name in CHECKPOINT_FILES)
    files = [file.model_dump() for file in stored]
    (folder / MANIFEST_FILE).write_text(json.dumps({"version": VERSION, **manifest, "files": files}, indent=1))
    save(folder / MANIFEST_FILE, prefix + MANIFEST_FILE)
    return stored


@dataclass(frozen=True)
class Restored:
    """A checkpoint on this node. `folder` also holds what transformers' trainer needs to go on."""

    folder: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.state["trainer"]["global_step"])

    @property
    def between_epochs(self) -> bool:
        """Whether the step was an epoch's last; the trainer counts epochs as a float that is whole just then."""
        return float(self.state["trainer"]["epoch"]).is_integer()

    def random_states(self) -> RandomStates:
        tensors = load_file(self.folder / RANDOM_FILE)
        version, internal, gauss = self.state["python_random"]
        plain = self.state["numpy_random"]
        return RandomStates(
            python=(version, tuple(internal), gauss),
            numpy={
                "bit_generator": plain["bit_generator"],
                "state": {"key": tensors["numpy"].numpy(), "pos": plain["pos"]},
                "has_gauss": plain["has_gauss"],
                "gauss": plain["gauss"],
            },
            torch_cpu=tensors["torch_cpu"],
            torch_cuda=tuple(tensors[name] for name in sorted(tensors) if name.startswith("torch_cuda_")),
        )

    def load_into(self, model: PeftModel, optimizer: Any, scheduler: Any) -> None:
        """Give optimizer and scheduler their states back. Raises StorageError when they are another adapter's."""
        if self.state["parameters"] != _trainable_names(model):
            raise StorageError("the checkpoint belongs to another adapter than the one that is trained")
        tensors = load_file(self.folder / OPTIMIZER_FILE)
        optimizer.load_state_dict(unflatten_optimizer(tensors, self.state["optimizer"]))
        scheduler.load_state_dict(self.state["scheduler"])


def fetch_checkpoint(source: CheckpointSource, folder: Path, fetch: Fetch) -> Restored:
    """Bring a checkpoint to this node, each file checked against its SHA-256. Raises StorageError."""
    names = {file.name for file in source.files}
    if not names >= set(CHECKPOINT_FILES) or not all(file.sha256 for file in source.files):
        raise StorageError(f"the checkpoint of step {source.step} is not complete")
    for file in source.files:
        if file.name in CHECKPOINT_FILES:
            fetch(file, folder / file.name)
    state = json.loads((folder / STATE_FILE).read_text())
    if state["version"] != VERSION or state["trainer"]["global_step"] != source.step:
        raise StorageError(f"the checkpoint is not one of step {source.step} in version {VERSION}")
    (folder / TRAINER_STATE_FILE).write_text(json.dumps(state["trainer"]))
    return Restored(folder, state)


def flatten_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors by '<parameter>.<name>', and the rest, which is plain numbers: param groups, and states that are no
    tensors. Tensors are copied, because several may share memory, which safetensors refuses."""
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for number, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{number}.{name}"] = value.detach().clone().contiguous()
            else:
                scalars.setdefault(str(number), {})[name] = value
    groups = [
        {name: value.item() if isinstance(value, torch.Tensor) else value for name, value in group.items()}
        for group in state["param_groups"]
    ]
    return tensors, {"groups": groups, "scalars": scalars}


def unflatten_optimizer(tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `flatten_optimizer`."""
    state: dict[int, dict[str, Any]] = {int(number): dict(values) for number, values in settings["scalars"].items()}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    groups = [
        {name: tuple(value) if name == "betas" else value for name, value in group.items()}
        for group in settings["groups"]
    ]
    return {"state": state, "param_groups": groups}


def _trainable_names(model: PeftModel) -> list[str]:
    return [name for name, weight in model.named_parameters() if weight.requires_grad]
