"""Parameters split into those that train and those that are frozen."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attent_jax._checks import short
from attent_jax.typing import Params, Trainable


def partition_params(
    params: Params, trainable: Trainable = True
) -> tuple[Params, Params]:
    """Split parameters into trained and frozen ones.

    Both results have the structure of `params`, with None where a leaf belongs to the
    other. Differentiate with respect to the first and close over the second.

    Args:
      params: any pytree of arrays.
      trainable: True for all leaves, a pytree prefix of bools as `optax.masked` takes,
        or a function of a leaf's path, e.g. `lambda path: "lora" in path`. The path
        is the keys joined by slashes, such as `"params/block_0/kernel"`.

    Returns:
      `(trained, frozen)`; `merge_params` joins them again.

    Raises:
      TypeError: if a trained leaf has no gradient because it is not floating point,
        a leaf is not an array, or `trainable` is none of the three forms.
      ValueError: if the prefix does not fit `params`, or no leaf is trained.

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> params = {"body": jnp.ones(3), "head": jnp.zeros(2)}
      >>> trained, frozen = attent_jax.training.partition_params(
      ...     params, lambda path: path == "head")
      >>> trained["body"] is None, frozen["head"] is None
      (True, True)
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    is_trained = _is_trained(params, leaves, treedef, trainable)
    if leaves and not any(is_trained):
        raise ValueError(
            f"trainable={_named(trainable)} leaves no parameter to train; the paths "
            f"are {_listing([_name(path) for path, _ in leaves])}: mark at least one."
        )
    for (path, leaf), trained in zip(leaves, is_trained, strict=True):
        dtype = _dtype_of(path, leaf)
        if trained and not jnp.issubdtype(dtype, jnp.inexact):
            kind = "float0" if dtype == jax.dtypes.float0 else dtype
            raise TypeError(
                f"params leaf {_name(path)!r} is {kind}, which has no gradient: "
                f"freeze it with trainable=, or close over it instead."
            )
    trained, frozen = (
        treedef.unflatten(
            leaf if is_kept == kept else None
            for (_, leaf), is_kept in zip(leaves, is_trained, strict=True)
        )
        for kept in (True, False)
    )
    return trained, frozen


def merge_params(trained: Params, frozen: Params) -> Params:
    """Join what `partition_params` split.

    Example:
      >>> import attent_jax
      >>> attent_jax.training.merge_params({"a": 1, "b": None}, {"a": None, "b": 2})
      {'a': 1, 'b': 2}
    """
    return jax.tree.map(
        lambda one, other: other if one is None else one,
        trained,
        frozen,
        is_leaf=lambda leaf: leaf is None,
    )


def _is_trained(params, leaves, treedef, trainable: Trainable) -> list[bool]:
    """A bool for each leaf."""
    answers: list[Any]
    if callable(trainable):
        answers = [trainable(_name(path)) for path, _ in leaves]
    else:
        try:
            answers = treedef.flatten_up_to(jax.tree.broadcast(trainable, params))
        except ValueError:
            raise ValueError(
                f"trainable={_named(trainable)} does not fit params, whose leaves are "
                f"{_listing([_name(path) for path, _ in leaves])}: give one bool for "
                f"each leaf or subtree, or a function of a leaf's path, e.g. "
                f'`lambda path: "lora" in path`.'
            ) from None
    for (path, _), answer in zip(leaves, answers, strict=True):
        if not isinstance(answer, bool | np.bool_):
            raise TypeError(
                f"trainable gives {answer!r} for the leaf {_name(path)!r}: give True "
                f"or False, by a pytree of bools or a function of the leaf's path."
            )
    return [bool(answer) for answer in answers]


def _dtype_of(path: Any, leaf: Any) -> Any:
    try:
        return jnp.result_type(leaf)
    except TypeError:
        raise TypeError(
            f"params leaf {_name(path)!r} is of type {type(leaf).__name__}, not an "
            f"array: leave it out of params, e.g. with equinox.partition(model, "
            f"equinox.is_array)."
        ) from None


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _named(trainable: Any) -> str:
    return getattr(trainable, "__name__", None) or short(trainable)


def _listing(names: list[str], most: int = 8) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
