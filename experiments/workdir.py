"""The folder of a run: never shared, always consistent, with its configuration."""

import fcntl
import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_CONFIG = "config.json"


class Run:
    """A folder that only this run writes to. With several processes, the first writes.

    Args:
      name: the experiment's name.
      folder: where to write; must not exist yet. None: a new one under `runs/`.
      config: what the results depend on.
      resume: continue in the folder if it exists and has the same configuration.

    Raises:
      FileExistsError: if the folder exists and `resume` is false, because no run
        overwrites the results of another; or if its configuration differs.
    """

    def __init__(
        self,
        name: str,
        folder: Path | None = None,
        *,
        config: dict[str, Any] | None = None,
        resume: bool = False,
    ):
        moment = f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
        self.folder = folder or Path("runs") / f"{name}-{moment}"
        self.is_writer = jax.process_index() == 0
        self.is_resumed = agree(resume and (self.folder / _CONFIG).exists())
        text = json.dumps({"experiment": name} | (config or {}), indent=1, default=str)
        error = None
        if self.is_writer:
            error = self._differences(text) if self.is_resumed else self._make(resume)
            error = error or self._lock()
        if agree(error is not None):
            raise error or FileExistsError(f"out={self.folder}: see the first process.")
        if not self.is_resumed:
            self.write(_CONFIG, text)

    def _lock(self) -> FileExistsError | None:
        """Lock the folder until this process ends, in whatever way."""
        lock = os.open(self.folder / ".lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return FileExistsError(
                f"out={self.folder} is being written by another run: "
                f"wait until it ends, or name a new folder."
            )
        return None

    def _make(self, resume: bool) -> FileExistsError | None:
        # A run that was killed before it wrote anything may start there again.
        is_bare = resume and self.folder.is_dir() and not any(self.folder.glob("[!.]*"))
        try:
            self.folder.mkdir(parents=True, exist_ok=is_bare)
        except FileExistsError:
            return FileExistsError(
                f"out={self.folder} exists already, and no run overwrites another's "
                f"results: name a new folder, remove that one, or pass --resume."
            )
        except OSError as error:
            return FileExistsError(
                f"out={self.folder} cannot be created ({error.strerror}): name another "
                f"folder."
            )
        return None

    def _differences(self, text: str) -> FileExistsError | None:
        """Why this run cannot continue in its folder; None if it can."""
        try:
            was = json.loads((self.folder / _CONFIG).read_text())
        except ValueError:
            return FileExistsError(
                f"out={self.folder} has a damaged {_CONFIG}: name a new folder."
            )
        now = json.loads(text)
        for name in sorted(was.keys() | now.keys()):
            if was.get(name) != now.get(name):
                return FileExistsError(
                    f"out={self.folder} was run with {name}={was.get(name)!r}, not "
                    f"{now.get(name)!r}: resume with the original options, or "
                    f"name a new folder."
                )
        return None

    def log(self, **metrics: Any) -> None:
        """Append a line to `metrics.jsonl` immediately."""
        if self.is_writer:
            with self._log.open("a") as lines:
                lines.write(json.dumps(_plain(metrics)) + "\n")
                lines.flush()
                os.fsync(lines.fileno())

    @property
    def log_size(self) -> int:
        """Bytes of `metrics.jsonl` so far; 0 where another process writes it."""
        is_there = self.is_writer and self._log.exists()
        return self._log.stat().st_size if is_there else 0

    def cut_log(self, size: int) -> None:
        """Remove the lines after the first `size` bytes: they will be written again."""
        if self.log_size < size and self.is_writer:
            raise FileExistsError(
                f"{self._log} has {self.log_size} bytes, but had {size} when the run "
                f"was saved: restore the file, or start again in a new folder."
            )
        if self.log_size > size:
            os.truncate(self._log, size)

    @property
    def _log(self) -> Path:
        return self.folder / "metrics.jsonl"

    def lines(self) -> list[dict[str, Any]]:
        """The logged lines."""
        text = self._log.read_text() if self._log.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def write(self, name: str, content: str | bytes) -> None:
        """Write or replace a file atomically."""
        if self.is_writer:
            partial = self.folder / f".{name}.partial"
            content = content.encode() if isinstance(content, str) else content
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.folder / name)


def agree(flag: bool) -> bool:
    """The first process's value, so that all processes take the same branch."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.array(flag)))


def any_process(*flags: bool) -> tuple[bool, ...]:
    """Whether each flag is true on some process. All processes call this."""
    if jax.process_count() == 1:
        return flags
    gathered = multihost_utils.process_allgather(np.array(flags))
    return tuple(map(bool, np.any(gathered, axis=0)))


def to_json_text(data: Any) -> str:
    """JSON of mappings, sequences, NamedTuples, arrays; NaN and inf become null."""
    return json.dumps(_plain(data), indent=1)


def environment() -> dict[str, str]:
    """Versions, device and command: what a result depends on besides its config."""
    packages = ("attent-jax", "jax", "flax", "optax", "numpy")
    device = jax.devices()[0]
    return {
        "device": f"{jax.device_count()} × {device.device_kind} ({device.platform})",
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "commit": _git_commit(),
        # sys.argv does not contain the module that was run.
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
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
    """The value in JSON's own types."""
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
