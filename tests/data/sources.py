"""Pools and sources that count how they are read."""

import threading
from contextlib import contextmanager
from typing import Any

import numpy as np


class CountingSource:
    """Examples `float32(id)`; reads wait until `num_threads` of them run at once."""

    def __init__(self, num_examples: int, num_threads: int = 1):
        self.num_examples = num_examples
        self.read: list[Any] = []
        self._barrier = threading.Barrier(num_threads, timeout=30)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.num_examples

    def __getitem__(self, id_) -> np.float32:
        with self._lock:
            self.read.append(id_)
        self._barrier.wait()
        return np.float32(id_)


@contextmanager
def timeout_is_failure():
    """Of a `CountingSource`: fewer threads read than were asked for."""
    try:
        yield
    except threading.BrokenBarrierError as error:
        raise AssertionError("the pool is read by fewer threads") from error


class OwnPool:
    """What a user may write: no `num_threads`, nothing of the library's."""

    def __init__(self, array: np.ndarray):
        self.array = array
        self.taken: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.array)

    def take(self, ids: np.ndarray) -> np.ndarray:
        self.taken.append(ids.tolist())
        return self.array[ids]
