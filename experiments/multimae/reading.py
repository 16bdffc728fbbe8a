"""What the readers of real data share: missing labels, checks before training."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int

NO_LABEL = 255
"""The class of a pixel that has none."""
_NUM_SHOWN = 10


class DataError(ValueError):
    """A file of a data set that cannot be used; the message names it."""


class Checkable(Protocol):
    """A source that can check single examples."""

    def __len__(self) -> int: ...

    def __getitem__(self, id_: int, /) -> dict[str, Any]:
        """The example; raises `DataError`."""
        ...


def check(
    source: Checkable,
    *,
    num_checked: int | None = None,
    seed: int = 0,
    num_threads: int = 8,
) -> int:
    """Read examples before training and raise if any of their files is damaged.

    Args:
      source: of `imagenet_s` or `nyuv2`.
      num_checked: how many examples, drawn at random; None: all of them.
      seed: of that draw.
      num_threads: how many examples are read at once.

    Returns:
      How many were checked.

    Raises:
      DataError: names the first files that are truncated, missing, of another size than
        the others, or hold labels out of range; with what is wrong and how many others.
    """
    ids = _drawn(len(source), num_checked, seed)
    problems = []
    with ThreadPoolExecutor(max(1, num_threads)) as threads:
        for problem in threads.map(_problem_of(source), ids.tolist()):
            if problem is not None:
                problems.append(problem)
    if problems:
        more = len(problems) - _NUM_SHOWN
        rest = [f"and {more} more examples"] if more > 0 else []
        raise DataError("\n".join([*problems[:_NUM_SHOWN], *rest]))
    return len(ids)


def _drawn(size: int, num_checked: int | None, seed: int) -> Int[np.ndarray, "ids"]:
    if num_checked is None or num_checked >= size:
        return np.arange(size)
    if num_checked < 1:
        raise ValueError(
            f"num_checked must be at least 1, got {num_checked}: pass 1 or more, or "
            f"None to check all examples."
        )
    return np.sort(np.random.default_rng(seed).permutation(size)[:num_checked])


def _problem_of(source: Checkable) -> Callable[[int], str | None]:
    def read(id_: int) -> str | None:
        try:
            source[id_]
        except DataError as error:
            return str(error)
        return None

    return read


def check_labels(
    labels: np.ndarray, num_classes: int, path: Path, where: str = ""
) -> None:
    """Refuse classes that do not exist."""
    wrong = labels[(labels >= num_classes) & (labels != NO_LABEL)]
    if wrong.size:
        raise DataError(
            f"{path}{where}: class {int(wrong.max())} is out of range: there are "
            f"{num_classes}, from 0, and {NO_LABEL} is none. Write the file again, or "
            f"pass the number of classes that it was made with."
        )
