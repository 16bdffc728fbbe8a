"""Leaves as the record and the messages tell them."""

import re
import reprlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

NUMBERS = bool, int, float, complex


class Leaf(NamedTuple):
    """What a leaf is, without its values."""

    path: str
    shape: Sequence[int]
    dtype: str
    weak_type: bool

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def described(name: str, tree: PyTree) -> list[Leaf]:
    """The leaves of the argument `name`; refuses what is no array or number."""
    return [
        _describe(name, jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _describe(name: str, path: str, leaf: Any) -> Leaf:
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        weak_type = bool(getattr(leaf, "weak_type", False))
        return Leaf(path, leaf.shape, leaf.dtype.name, weak_type)
    is_number = type(leaf) in NUMBERS
    if is_number or isinstance(leaf, np.ndarray | np.generic):
        array = np.asarray(leaf)
        is_numeric = jnp.issubdtype(array.dtype, np.number) or array.dtype == np.bool_
        is_too_large = type(leaf) is int and array.dtype != np.int64
        if is_numeric and not is_too_large:
            dtype = type(leaf).__name__ if is_number else array.dtype.name
            return Leaf(path, array.shape, dtype, weak_type=False)
    raise TypeError(
        f"{name}{path} must be an array or a number, got {reprlib.repr(leaf)} of "
        f"type {type(leaf).__name__}: make an array of it, or put it into the "
        f"position."
    )


def file_names(leaves: list[Leaf]) -> list[str]:
    """What the leaves are called on disk: their numbers, with what can be read."""
    return [
        re.sub(r"\W+", "_", f"{i}{leaf.path}", flags=re.ASCII).strip("_")
        for i, leaf in enumerate(leaves)
    ]


def first_difference(
    saved: list[Leaf], wanted: list[Leaf]
) -> tuple[str, str, str] | None:
    """The path, and what is there in the one and in the other."""
    told_saved = {leaf.path: str(leaf) for leaf in saved}
    told_wanted = {leaf.path: str(leaf) for leaf in wanted}
    for path in {**told_wanted, **told_saved}:
        told = told_saved.get(path, "nothing"), told_wanted.get(path, "nothing")
        if told[0] != told[1]:
            return path, *told
    if list(told_saved) != list(told_wanted):
        return "", f"in the order {list(told_saved)}", f"{list(told_wanted)}"
    return None
