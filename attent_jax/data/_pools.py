"""Pools: the examples a selector chooses from, each with a stable integer id."""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from attent_jax._checks import check_count, leading_size
from attent_jax.typing import Batch


class Pool(Protocol):
    """What the loops need of a data set; an example's id is its position."""

    num_threads: int
    """Threads that fetch batches ahead; 0 fetches each when it is asked for."""

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def take(self, ids: np.ndarray) -> Batch:
        """The examples of these ids, stacked: leaves `[len(ids), ...]`."""
        ...


class ArrayPool:
    """A pool held in memory: any pytree of arrays with a common leading axis.

    Raises:
      ValueError: if the pool is empty, a leaf has no leading axis, or leading sizes
        differ.

    Example:
      >>> import numpy as np, attent_jax
      >>> pool = attent_jax.data.ArrayPool({"x": np.arange(6).reshape(3, 2)})
      >>> len(pool), pool.take(np.array([2, 0]))["x"].tolist()
      (3, [[4, 5], [0, 1]])
    """

    num_threads = 0

    def __init__(self, arrays: Batch):
        if leading_size("arrays", arrays) == 0:
            raise ValueError("arrays is an empty pool: give it at least one example.")
        self._arrays = arrays
        self._num_examples = leading_size("arrays", arrays)

    def __len__(self) -> int:
        return self._num_examples

    def take(self, ids: np.ndarray) -> Batch:
        """The examples of these ids, stacked."""
        return jax.tree.map(lambda array: array[ids], self._arrays)


class SourcePool:
    """A pool read example by example: any random-access source, such as grain's.

    Args:
      source: has `len(source)` and `source[id]`, the example as a pytree of arrays;
        examples must share their shapes.
      num_threads: threads that read batches ahead of the training.

    Raises:
      TypeError: if the source lacks `__len__` or `__getitem__`.
      ValueError: if it is empty, or num_threads is negative.

    Example:
      >>> import numpy as np, attent_jax
      >>> pool = attent_jax.data.SourcePool([{"x": np.ones(2) * i} for i in range(9)])
      >>> pool.take(np.array([8, 3]))["x"].tolist()
      [[8.0, 8.0], [3.0, 3.0]]
    """

    def __init__(self, source: Sequence[Any], *, num_threads: int = 8):
        if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
            raise TypeError(
                f"source must have __len__ and __getitem__, got "
                f"{type(source).__name__}: wrap a stream's chunk in a list."
            )
        if not len(source):
            raise ValueError("source is an empty pool: give it at least one example.")
        self.num_threads = check_count("num_threads", num_threads, minimum=0)
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def take(self, ids: np.ndarray) -> Batch:
        """The examples of these ids, read and stacked."""
        examples = [self._source[int(id_)] for id_ in ids]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)
