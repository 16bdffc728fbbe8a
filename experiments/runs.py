"""A run's folder: fresh, complete at every moment, and saying how it was made."""

import json
import os
import platform
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np


class Run:
    """A folder that only this run writes to.

    Args:
      name: of the experiment.
      folder: where to write; must not exist yet. None: a new one under `runs/`.

    Raises:
      FileExistsError: if the folder exists: no run overwrites another's results.
    """

    def __init__(self, name: str, folder: Path | None = None):
        moment = f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
        self.folder = folder or Path("runs") / f"{name}-{moment}"
        try:
            self.folder.mkdir(parents=True)
        except FileExistsError:
            raise FileExistsError(
                f"out={self.folder} exists already, and no run overwrites another's "
                f"results: name a new folder, or remove that one."
            ) from None

    def log(self, **metrics: Any) -> None:
        """Append a line to `metrics.jsonl`, at once."""
        with (self.folder / "metrics.jsonl").open("a") as lines:
            lines.write(json.dumps(metrics) + "\n")

    def write(self, name: str, text: str) -> None:
        """Write or replace a file; a reader sees the old or the new one, whole."""
        partial = self.folder / f".{name}.partial"
        partial.write_text(text)
        partial.replace(self.folder / name)


def to_json_text(data: Any) -> str:
    """JSON of mappings, sequences, NamedTuples, arrays; NaN and inf become null."""
    return json.dumps(_plain(data), indent=1)


def environment() -> dict[str, str]:
    """What a result depends on besides its configuration."""
    packages = ("attent-jax", "jax", "flax", "optax", "numpy")
    device = jax.devices()[0]
    return {
        "device": f"{jax.device_count()} × {device.device_kind} ({device.platform})",
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "commit": _git_commit(),
        "command": " ".join(["python -m experiments", *sys.argv[1:]]),
        **{package: version(package) for package in packages},
    }


def _git_commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def _plain(data: Any) -> Any:
    """As JSON's own types."""
    if hasattr(data, "_asdict"):
        data = data._asdict()
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    if hasattr(data, "tolist"):
        return _plain(data.tolist())
    if isinstance(data, float) and not np.isfinite(data):
        return None
    return data
