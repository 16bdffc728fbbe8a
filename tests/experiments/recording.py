"""Hooks that keep what a run did, save it in memory, and stop it."""

import json
from typing import Any, NamedTuple

import jax
import numpy as np

from attent_jax.checkpointing import Checkpoint, checksum
from experiments.study.hooks import Epoch, Evaluation, Hook, Steps


class Stopped(Exception):
    """The run was stopped by a test."""


class Recorder(Hook):
    """Keeps every event."""

    def __init__(self):
        self.steps: list[Steps] = []
        self.epochs: list[Epoch] = []
        self.evaluations: list[Evaluation] = []

    def on_steps(self, steps: Steps) -> None:
        self.steps.append(steps)

    def on_epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)

    @property
    def ids(self) -> np.ndarray:
        """`[steps, batch]`"""
        return np.concatenate([steps.ids for steps in self.steps])

    @property
    def is_taught(self) -> np.ndarray:
        """`[steps, batch]`"""
        return np.concatenate([steps.is_taught for steps in self.steps])

    @property
    def losses(self) -> np.ndarray:
        """`[steps]`"""
        return np.concatenate([steps.losses for steps in self.steps])

    @property
    def params_crc32(self) -> list[int]:
        """After each epoch."""
        return [epoch.params_crc32 for epoch in self.epochs]


class Save(NamedTuple):
    """A checkpoint in memory, as one on the disk would give it back."""

    clock: int
    state: Any
    position: dict[str, Any]


class MemoryCheckpoints(Hook):
    """Saves in memory at every chance; stops the run at a chosen one."""

    def __init__(self, *, stop_at: int | None = None, resume_from: Save | None = None):
        self.saves: dict[str, list[Save]] = {}
        self._stop_at, self._resume_from = stop_at, resume_from

    def resume(self, part, target, identity) -> Checkpoint | None:
        saved = self._resume_from
        if saved is None or part != "training":
            return None

        def like(array, value):
            if isinstance(array, jax.Array):
                return jax.device_put(value, array.sharding)
            return value

        state = jax.tree.map(like, target, saved.state)
        return Checkpoint(saved.clock, state, json.loads(json.dumps(saved.position)))

    def wants_state(self, num_skipped: int) -> bool:
        return True

    def on_state(self, part, clock, state, position) -> None:
        save = Save(clock, jax.tree.map(np.array, state), position)
        saves = self.saves.setdefault(part, [])
        saves.append(save)
        if len(saves) == self._stop_at:
            raise Stopped

    @property
    def last(self) -> Save:
        """The newest of training."""
        return self.saves["training"][-1]

    @property
    def params(self) -> Any:
        """The newest parameters."""
        return self.last.state["state"].params

    @property
    def params_crc32(self) -> int:
        """Their checksum."""
        return checksum(self.params)
