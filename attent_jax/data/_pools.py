"""Pools: the examples a selector chooses from, each with a stable integer id."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from attent_jax._checks import MAX_COUNT, check_count, leading_size, short
from attent_jax.typing import Batch

_MAX_BATCH_SIZE = 2**20  # or the pool's size, if that is larger


class Pool(Protocol):
    """What the loops need of a data set. An example's id is its position.

    A pool may also have `num_threads`, the number of batches that `epoch_batches` and
    `score_pool` read at once, ahead of their use. Without it, or with 0, each batch is
    read when it is needed.
    """

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def take(self, ids: np.ndarray, /) -> Batch:
        """The examples of these ids, stacked: leaves `[len(ids), ...]`."""
        ...


class Source(Protocol):
    """Random access to single examples, such as a list or a grain source."""

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __getitem__(self, id_: Any, /) -> Any:
        """The example of this id, a pytree of arrays."""
        ...


class ArrayPool:
    """A pool held in memory: any pytree of arrays with a common leading axis.

    Args:
      arrays: leaves `[pool, ...]`, NumPy or jax arrays.

    Raises:
      TypeError: for an array of strings or dates.
      ValueError: if the pool is empty or has 2³¹ examples or more, a leaf has no
        leading axis or is ragged, or leading sizes differ.

    Example:
      >>> import numpy as np, attent_jax
      >>> pool = attent_jax.data.ArrayPool({"x": np.arange(6).reshape(3, 2)})
      >>> len(pool), pool.take(np.array([2, 0]))["x"].tolist()
      (3, [[4, 5], [0, 1]])
    """

    def __init__(self, arrays: Batch):
        num_examples = leading_size("arrays", arrays)
        for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
            where = f"arrays{jax.tree_util.keystr(path)}"
            if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "USTMm":
                raise TypeError(
                    f"{where} has dtype {leaf.dtype}, which jax cannot hold: pass "
                    f"numbers, e.g. the texts as token ids."
                )
            if getattr(leaf, "dtype", None) == np.dtype(object):
                raise ValueError(
                    f"{where} is an array of Python "
                    f"objects: pad ragged examples to one shape, or pass a list of "
                    f"examples to SourcePool with a collate_fn that pads."
                )
        self._num_examples = _check_size("arrays", num_examples)
        self._arrays = arrays

    def __len__(self) -> int:
        return self._num_examples

    def __repr__(self) -> str:
        shapes = jax.tree.map(_Shape, self._arrays)
        return f"ArrayPool({short(shapes)})"

    def take(self, ids: np.ndarray) -> Batch:
        """The examples of these ids, stacked."""
        return jax.tree.map(lambda array: array[ids], self._arrays)


class _Shape:
    """An array's dtype and shape, as a repr."""

    def __init__(self, array: Any):
        self._text = f"{array.dtype}[{','.join(map(str, array.shape))}]"

    def __repr__(self) -> str:
        return self._text


class SourcePool:
    """A pool read example by example: any random-access source, such as grain's.

    Args:
      source: has `len(source)` and `source[id]`, the example as a pytree of arrays.
      num_threads: how many threads read batches ahead of their use. The source is
        read by all of them at once. 0: each batch is read when it is needed.
      collate_fn: `(list of examples) -> batch`, with leaves `[len(list), ...]`; pads
        examples of different shapes, for instance. A step compiles once for each shape
        of a batch, so pad to one length or to a few. None: examples are stacked, and
        must have the same structure and shapes.

    Raises:
      TypeError: if the source lacks `__len__` or `__getitem__` or is a mapping, or
        collate_fn is not callable.
      ValueError: if the source is empty or has 2³¹ examples or more, or num_threads is
        negative. From `take`, if examples differ in structure or shape, or collate_fn
        returns another number of examples. What the source or collate_fn raises gets a
        note with the ids.

    Example:
      >>> import numpy as np, attent_jax
      >>> pool = attent_jax.data.SourcePool([{"x": np.ones(2) * i} for i in range(9)])
      >>> pool.take(np.array([8, 3]))["x"].tolist()
      [[8.0, 8.0], [3.0, 3.0]]
      >>> def pad(examples):
      ...     return np.stack([np.pad(x, (0, 3 - len(x))) for x in examples])
      >>> ragged = [np.ones(length) for length in (1, 2, 3)]
      >>> pool = attent_jax.data.SourcePool(ragged, collate_fn=pad)
      >>> pool.take(np.array([0, 1])).tolist()
      [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    """

    def __init__(
        self,
        source: Source,
        *,
        num_threads: int = 8,
        collate_fn: Callable[[list[Any]], Batch] | None = None,
    ):
        if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
            raise TypeError(
                f"source must have __len__ and __getitem__, got "
                f"{type(source).__name__}: wrap a chunk of a stream in a list."
            )
        if isinstance(source, Mapping):
            raise TypeError(
                f"source must be indexed by ids 0, 1, ..., got {type(source).__name__}:"
                f" for arrays by name use attent_jax.data.ArrayPool(arrays)."
            )
        if not (collate_fn is None or callable(collate_fn)):
            raise TypeError(
                f"collate_fn must be a function of a list of examples, got "
                f"{type(collate_fn).__name__}: pass the function itself, or None."
            )
        self.num_threads = check_count("num_threads", num_threads, minimum=0)
        self._num_examples = _check_size("source", _length("source", source))
        self._source, self._collate_fn = source, collate_fn

    def __len__(self) -> int:
        return self._num_examples

    def __repr__(self) -> str:
        return (
            f"SourcePool({type(self._source).__name__} of {self._num_examples} "
            f"examples, num_threads={self.num_threads})"
        )

    def take(self, ids: np.ndarray) -> Batch:
        """The examples of these ids, read and stacked."""
        examples = [self._read(int(id_)) for id_ in ids]
        if self._collate_fn is None:
            return _stack(examples, ids)
        try:
            batch = self._collate_fn(examples)
        except Exception as error:
            error.add_note(f"in SourcePool's collate_fn, for ids {short(ids.tolist())}")
            raise
        if (size := leading_size("collate_fn's batch", batch)) != len(examples):
            raise ValueError(
                f"collate_fn must return one row per example, but made {size} of "
                f"{len(examples)}: stack the examples along a new first axis."
            )
        return batch

    def _read(self, id_: int) -> Any:
        try:
            return self._source[id_]
        except Exception as error:
            error.add_note(f"in SourcePool's source[{id_}]")
            raise


def check_pool(pool: Any) -> int:
    """The number of examples of what must be a pool."""
    is_array = isinstance(pool, np.ndarray | jax.Array)
    if is_array or not (hasattr(pool, "__len__") and hasattr(pool, "take")):
        raise TypeError(
            f"pool must have __len__ and take(ids), got {type(pool).__name__}: wrap "
            f"arrays in attent_jax.data.ArrayPool(arrays), a list or another source of "
            f"single examples in attent_jax.data.SourcePool(source)."
        )
    return _check_size("pool", _length("pool", pool))


def check_ids(ids: np.ndarray, num_examples: int) -> None:
    """Refuse ids that are not a list of the pool's."""
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(
            f"ids must be integers of shape [batch], got {ids.dtype} of shape "
            f"{ids.shape}: pass e.g. np.array([3, 5])."
        )
    if ids.size and (ids.min() < 0 or ids.max() >= num_examples):
        raise ValueError(
            f"ids must lie in [0, {num_examples}), the pool's, got {ids.min()} to "
            f"{ids.max()}: pass ids of this pool."
        )


def check_batch_size(batch_size: Any, num_examples: int) -> int:
    """`batch_size` as an int that memory can hold."""
    batch_size, limit = (
        check_count("batch_size", batch_size),
        max(num_examples, _MAX_BATCH_SIZE),
    )
    if batch_size > limit:
        raise ValueError(
            f"batch_size must be at most {limit} for a pool of {num_examples} "
            f"examples, got {batch_size}: lower it."
        )
    return batch_size


def _length(name: str, sized: Any) -> int:
    try:
        return len(sized)
    except OverflowError:  # more than sys.maxsize
        return _check_size(name, 2**63)


def _check_size(name: str, num_examples: int) -> int:
    if not num_examples:
        raise ValueError(f"{name} is an empty pool: give it at least one example.")
    if num_examples > MAX_COUNT:
        raise ValueError(
            f"{name} has {num_examples} examples, but ids are int32 and a pool has at "
            f"most {MAX_COUNT}: pass a large or an endless stream in chunks, each "
            f"a pool."
        )
    return num_examples


def _stack(examples: list[Any], ids: np.ndarray) -> Batch:
    leaves, structure = jax.tree.flatten(examples[0])
    columns = [[leaf] for leaf in leaves]
    for id_, example in zip(ids[1:], examples[1:], strict=True):
        others, other_structure = jax.tree.flatten(example)
        if other_structure != structure:
            raise ValueError(
                f"example {id_} of source has another structure than example {ids[0]}: "
                f"{short(other_structure)}, not {short(structure)}; give all "
                f"examples one structure, or pass a collate_fn."
            )
        for column, leaf in zip(columns, others, strict=True):
            column.append(leaf)
    for i, column in enumerate(columns):
        shapes = [np.shape(leaf) for leaf in column]
        for id_, shape in zip(ids, shapes, strict=True):
            if shape != shapes[0]:
                paths = jax.tree_util.tree_leaves_with_path(examples[0])
                where = f"example{jax.tree_util.keystr(paths[i][0])}"
                raise ValueError(
                    f"{where} has shape {shape} for id {id_} but {shapes[0]} for id "
                    f"{ids[0]}: give all examples one shape, or pass a collate_fn that "
                    f"pads."
                )
    return jax.tree.unflatten(structure, [np.stack(column) for column in columns])
