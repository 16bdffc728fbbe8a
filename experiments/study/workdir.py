"""The folder of a run: never shared, always consistent, with its configuration."""

import contextlib
import fcntl
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.study.processes import agree

CONFIG_NAME, ASKED_NAME = "config.json", "asked.json"


class RecordError(OSError):
    """A run's folder or results cannot be used as they are; says what to do."""


class Run:
    """A folder that only this run writes to. With several processes, the first writes.

    Args:
      name: the experiment's name.
      folder: where to write; must be new or empty. None: a new one under `runs/`.
      config: what the results depend on.
      resume: continue in the folder if it exists and has the same configuration.

    Raises:
      RecordError: if the folder has other files, because no run overwrites the results
        of another; if `resume` is true and its configuration differs; or if it cannot
        be written, or another run writes to it.
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
        self.is_resumed = agree(resume and (self.folder / CONFIG_NAME).exists())
        text = json.dumps({"experiment": name} | (config or {}), indent=1, default=str)
        error = None
        if self.is_writer:
            error = self._differences(text) if self.is_resumed else self._make()
            error = error or self._lock()
        if agree(error is not None):
            raise error or RecordError(f"out={self.folder}: see the first process.")
        if not self.is_resumed:
            self.write(CONFIG_NAME, text)

    def _lock(self) -> RecordError | None:
        """Lock the folder until this process ends, in whatever way."""
        try:
            lock = os.open(self.folder / ".lock", os.O_CREAT | os.O_RDWR)
        except OSError as error:
            return RecordError(
                f"out={self.folder} cannot be written ({error.strerror}): name another "
                f"folder, or change its permissions."
            )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return RecordError(
                f"out={self.folder} is being written by another run: "
                f"wait until it ends, or name a new folder."
            )
        return None

    def _make(self) -> RecordError | None:
        # A run that was killed before it wrote anything may start there again.
        is_bare = self.folder.is_dir() and not any(self.folder.glob("[!.]*"))
        try:
            self.folder.mkdir(parents=True, exist_ok=is_bare)
        except FileExistsError:
            if (self.folder / CONFIG_NAME).exists():
                return RecordError(
                    f"out={self.folder} exists already, and no run overwrites "
                    f"another's results: name a new folder, or pass --resume to "
                    f"continue it."
                )
            return RecordError(
                f"out={self.folder} exists already and is not the folder of a run: "
                f"name a new one."
            )
        except OSError as error:
            return RecordError(
                f"out={self.folder} cannot be created ({error.strerror}): name another "
                f"folder."
            )
        return None

    def _differences(self, text: str) -> RecordError | None:
        """Why this run cannot continue in its folder; None if it can."""
        try:
            was = dict(json.loads((self.folder / CONFIG_NAME).read_text()))
        except (ValueError, TypeError):
            return RecordError(
                f"out={self.folder} has a damaged {CONFIG_NAME}: name a new folder."
            )
        now = json.loads(text)
        for name in (*now, *was):
            if was.get(name) != now.get(name):
                return RecordError(
                    f"out={self.folder} was run with {name}={was.get(name)!r}, not "
                    f"{now.get(name)!r}: resume with the original options, or "
                    f"name a new folder."
                )
        return None

    def ask_for(self, names: Iterable[str]) -> None:
        """Add to the names of the jobs that the folder is to have."""
        path = self.folder / ASKED_NAME
        before = json.loads(path.read_text()) if path.exists() else []
        self.write(ASKED_NAME, json.dumps(list(dict.fromkeys([*before, *names]))))

    def write(self, name: str, content: str | bytes) -> None:
        """Write or replace a file of the folder."""
        if self.is_writer:
            write_atomically(self.folder / name, content)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write or replace a file, so that it is never half written.

    Raises:
      RecordError: if it cannot be written, for example to a full disk.
    """
    partial = path.with_name(f".{path.name}.partial")
    content = content.encode() if isinstance(content, str) else content
    with _writing(path):
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"{path} cannot be written ({error.strerror}): make room, or correct the "
            f"permissions, and continue with --resume."
        ) from error


class GrowingFile:
    """A file of the first process that only grows, but for a resumed run's cut."""

    def __init__(self, path: Path):
        self._path = path
        self._is_writer = jax.process_index() == 0

    def append(self, content: bytes) -> None:
        """Write at the end immediately.

        Raises:
          RecordError: if it cannot be written, for example to a full disk.
        """
        if not self._is_writer:
            return
        size = self._path.stat().st_size if self._path.exists() else 0
        with _writing(self._path):
            try:
                with self._path.open("ab") as file:
                    file.write(content)
            except OSError:
                if self._path.exists():
                    os.truncate(self._path, size)
                raise

    @property
    def size(self) -> int:
        """Bytes so far, which are then on the disk; 0 on other processes."""
        if not self._is_writer or not self._path.exists():
            return 0
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
        return self._path.stat().st_size

    def cut(self, size: int) -> None:
        """Remove what follows the first `size` bytes: it will be written again."""
        found = self.size
        if found < size and self._is_writer:
            raise RecordError(
                f"{self._path} has {found} bytes, but had {size} when the run was "
                f"saved: restore the file, or remove the folder {self._path.parent} to "
                f"start this run again."
            )
        if found > size:
            os.truncate(self._path, size)


def as_json_line(data: Any) -> str:
    """One line of JSON, with a newline; NaN and inf become null."""
    return json.dumps(_plain(data)) + "\n"


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
