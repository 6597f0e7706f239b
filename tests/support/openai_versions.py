"""The contract's program (`openai_contract`) under any release of the openai client, in an environment of its own."""

import fcntl
import os
import subprocess
import venv
from pathlib import Path

PROGRAM = Path(__file__).with_name("openai_contract.py")
OLDER = ("1.109.1", "2.54.0")
"""The last of each older major line."""
MODELS = ("tiny", "org/tiny")
"""The base models that the program asks for; the slash is one that old clients send as it is."""
PATIENCE_SECONDS = 600


def run_contract(python: Path, url: str, api_key: str, folder: Path) -> str:
    """What the program printed: the client's version. Of our environment, such as another key, it sees nothing."""
    done = subprocess.run(
        [str(python), str(PROGRAM), url, api_key, *MODELS],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def environment_with(version: str) -> Path:
    """An environment with that client, made once per machine; returns its Python."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tunepool"
    caches.mkdir(parents=True, exist_ok=True)
    folder = caches / f"openai-{version}"
    python = folder / "bin" / "python"
    with (caches / f"openai-{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            venv.create(folder, with_pip=True, clear=True)
            install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*install, f"openai=={version}"], check=True, capture_output=True)
            (folder / "complete").touch()
    return python
