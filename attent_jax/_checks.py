"""Argument checks: each error names the argument, its value and the remedy."""

import inspect
import numbers
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MAX_CHARACTERS = 100  # of a value in an error message
MAX_COUNT = 2**31 - 1
"""The largest pool, and the largest count, that 32-bit ids can index."""


def check_count(
    name: str, value: Any, *, minimum: int = 1, maximum: int | None = None
) -> int:
    """`value` as an int, at least `minimum` and at most `maximum`."""
    try:
        if isinstance(value, bool):
            raise TypeError
        count = operator.index(value)
    except TypeError:
        is_pool = hasattr(value, "take") and not hasattr(value, "dtype")
        remedy = "its length, len(pool)" if is_pool else "a Python int"
        raise TypeError(
            f"{name} must be an integer, got {_kind(value)}: pass {remedy}."
        ) from None
    if count < minimum:
        raise ValueError(
            f"{name} must be at least {minimum}, got {count}: pass {minimum} or more."
        )
    if maximum is not None and count > maximum:
        raise ValueError(
            f"{name} must be at most {maximum}, got {count}: pass {maximum} or less."
        )
    return count


def check_number(
    name: str,
    value: Any,
    *,
    low: float = -np.inf,
    high: float = np.inf,
    low_excluded: bool = False,
) -> float:
    """`value` as a float within [low, high], or (low, high]."""
    if callable(value):
        raise TypeError(
            f"{name} must be a number, got {shown(value)}: it takes no schedule "
            f"or other function; pass a Python number."
        )
    is_number = isinstance(value, numbers.Real) or np.shape(value) == ()
    try:
        if not is_number or isinstance(value, bool | str | type(None)):
            raise TypeError
        number = float(value)
    except TypeError:
        raise TypeError(
            f"{name} must be a number, got {short(value)} of type "
            f"{type(value).__name__}: pass a Python number."
        ) from None
    inside = (low < number if low_excluded else low <= number) and number <= high
    if not inside:
        bracket = "(" if low_excluded else "["
        raise ValueError(
            f"{name} must lie in {bracket}{low:g}, {high:g}], got {number:g}: "
            f"choose a value in that range."
        )
    return number


def check_rng(name: str, rng: Any, *, optional: bool = False) -> None:
    """Refuse anything but one typed key (or None, where optional)."""
    if rng is None and optional:
        return
    dtype = getattr(rng, "dtype", None)
    if not isinstance(rng, jax.Array) or not jnp.issubdtype(
        rng.dtype, jax.dtypes.prng_key
    ):
        kind = type(rng).__name__ if dtype is None else f"an array of {dtype}"
        kind = "None" if rng is None else kind
        raise TypeError(
            f"{name} must be a typed key, got {kind}: make one with "
            f"jax.random.key(seed), or wrap a raw uint32 key with "
            f"jax.random.wrap_key_data(key)."
        )
    if rng.shape != ():
        raise ValueError(
            f"{name} must be a single key, got an array of keys of shape {rng.shape}: "
            f"pass one of them, or vmap over them."
        )


def leading_size(name: str, tree: Any) -> int:
    """The length of the axis that all leaves share first: the examples."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise ValueError(
            f"{name} has no arrays: pass a pytree of arrays whose leading axis counts "
            f"the examples."
        )
    sizes: dict[str, int] = {}
    for path, leaf in leaves:
        where = name + jax.tree_util.keystr(path)
        if np.ndim(leaf) == 0:
            raise ValueError(
                f"{where} has no batch axis (its shape is ()): every leaf needs the "
                f"examples as its leading axis; close over constants instead."
            )
        sizes[where] = np.shape(leaf)[0]
    first, size = next(iter(sizes.items()))
    for where, other in sizes.items():
        if other != size:
            raise ValueError(
                f"{name}'s leaves disagree on the number of examples ({first}: {size}, "
                f"{where}: {other}): give every leaf the same leading size."
            )
    return size


def check_per_example(name: str, values: Any, num_examples: int) -> None:
    """Refuse losses or scores that are not one per example."""
    if isinstance(values, tuple):
        raise TypeError(
            f"{name} returned a tuple: return the array [batch] alone, without "
            f"auxiliary output."
        )
    shape = np.shape(values)
    if shape == (num_examples,):
        return
    remedy = (
        "it is reduced over the batch: drop the mean or sum and return one value per "
        "example"
        if shape == ()
        else "reduce each example's positions to one value, e.g. with "
        "attent_jax.scores.masked_mean(values, mask)"
    )
    raise ValueError(
        f"{name} must return shape ({num_examples},), one value per example, but "
        f"returned shape {shape}: {remedy}."
    )


def check_weights(weights: Any, num_examples: int) -> None:
    """Refuse loss weights that are not one per example of the batch."""
    shape = getattr(weights, "shape", None)
    if shape != (num_examples,):
        raise ValueError(
            f"weights must have shape ({num_examples},), one per example of the batch, "
            f"got {type(weights).__name__ if shape is None else shape}: pass e.g. "
            f"jnp.ones({num_examples}), as the last of (state, rng, batch, weights)."
        )


def structure_of(function: Any, *args: Any) -> Any:
    """The structure of what `function` returns; None if jax cannot trace it."""
    try:
        return jax.tree.structure(jax.eval_shape(function, *args))
    except jax.errors.JAXTypeError:
        return None


def takes(function: Any, num_arguments: int) -> bool:
    """Whether `function` can be called with so many positional arguments."""
    if not callable(function):
        return False
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a built-in without a signature
        return True
    try:
        signature.bind(*range(num_arguments))
    except TypeError:
        return False
    return True


def shown(value: Any) -> str:
    """`value` for an error message; functions by their name."""
    if inspect.isroutine(value) or inspect.isclass(value):
        return f"{value.__name__} itself"
    return short(value)


def short(value: Any) -> str:
    """The repr of `value`, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}..."


def factory_hint(value: Any) -> str:
    """What to add to a remedy where `value` may be a factory that was not called."""
    return " (called, with its parentheses)" if callable(value) else ""


def _kind(value: Any) -> str:
    """A value of a wrong type: a function by its name, others with their type."""
    text = shown(value)
    return text if callable(value) else f"{text} of type {type(value).__name__}"


def check_select_fn(name: str, select_fn: Any) -> None:
    """Refuse what is not a selector, a factory of selectors included."""
    if not takes(select_fn, 3):
        raise TypeError(
            f"{name} must be a selector, got {shown(select_fn)}: pass e.g. "
            f"attent_jax.selectors.top_k(){factory_hint(select_fn)}."
        )


def pool_scores(scores: Any, name: str = "scores") -> jax.Array:
    """`scores` as a jax array; lists are converted."""
    if hasattr(scores, "losses") and hasattr(scores, "scores"):
        raise TypeError(
            f"{name} is a {type(scores).__name__}: pass its scores, `table.scores`."
        )
    if isinstance(scores, jax.Array):
        return scores
    is_list = type(scores) in (list, tuple)
    if not is_list and not hasattr(scores, "shape"):
        raise TypeError(
            f"{name} must be an array of shape [pool], got {type(scores).__name__}: "
            f"pass one score per example, e.g. a jax or NumPy array."
        )
    # float64 beyond float32's range becomes ±inf, and NaN means "no score".
    with np.errstate(over="ignore"), jax.debug_nans(False):
        return jnp.asarray(scores, float if is_list else None)
