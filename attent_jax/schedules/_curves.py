"""Values over time: `step -> value`, exact at their boundaries."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from attent_jax._checks import check_count, check_number
from attent_jax._factories import described
from attent_jax.typing import Schedule


@described
def constant(value: float) -> Schedule:
    """The same value at every step.

    Args:
      value: a number.

    Returns:
      `step -> value`.

    Raises:
      TypeError: if `value` is not a number.

    Example:
      >>> import attent_jax
      >>> float(attent_jax.schedules.constant(0.5)(7))
      0.5
    """
    value = check_number("value", value)

    def schedule(step):
        """`step -> value`, the same for every step."""
        return jnp.full(jnp.shape(step), value)

    return schedule


@described
def linear(initial: float, final: float, num_steps: int) -> Schedule:
    """A straight line from `initial` at step 0 to `final` at `num_steps`, then flat.

    The paper calls it *incremental*.

    Args:
      initial: the value up to step 0.
      final: the value from step `num_steps` on.
      num_steps: >= 1.

    Returns:
      `step -> value`, for a Python, NumPy or traced step, or an array of steps.

    Raises:
      TypeError, ValueError: for arguments that are not numbers, or num_steps < 1.

    Example:
      >>> import attent_jax
      >>> ratio = attent_jax.schedules.linear(0.2, 0.8, 30)
      >>> [round(float(ratio(step)), 3) for step in (0, 15, 30, 99)]
      [0.2, 0.5, 0.8, 0.8]
    """
    initial, final = check_number("initial", initial), check_number("final", final)
    num_steps = check_count("num_steps", num_steps)

    def schedule(step):
        """`step -> value`, on a straight line."""
        # A representable value must be exact, so that its floor is right. XLA divides
        # by multiplying with a reciprocal, and merges constants (hence the barriers);
        # adding the remainder corrects the rounding of both.
        product = lax.optimization_barrier(
            (final - initial) * jnp.clip(step, 0, num_steps).astype(float)
        )
        rise = lax.optimization_barrier(product / num_steps)
        rise += (product - rise * num_steps) / num_steps
        return jnp.where(step >= num_steps, final, initial + rise)

    return schedule


@described
def cosine(initial: float, final: float, num_steps: int) -> Schedule:
    """Half a cosine from `initial` at step 0 to `final` at `num_steps`, then flat.

    Args:
      initial: the value up to step 0.
      final: the value from step `num_steps` on.
      num_steps: >= 1.

    Returns:
      `step -> value`, for a Python, NumPy or traced step, or an array of steps.

    Raises:
      TypeError, ValueError: for arguments that are not numbers, or num_steps < 1.

    Example:
      >>> import attent_jax
      >>> ratio = attent_jax.schedules.cosine(0.2, 0.8, 30)
      >>> [round(float(ratio(step)), 3) for step in (0, 10, 15, 30, 99)]
      [0.2, 0.35, 0.5, 0.8, 0.8]
    """
    initial, final = check_number("initial", initial), check_number("final", final)
    num_steps = check_count("num_steps", num_steps)

    def schedule(step):
        """`step -> value`, on half a cosine."""
        angle = jnp.pi * jnp.clip(step, 0, num_steps).astype(float) / num_steps
        rise = (final - initial) * (1 - jnp.cos(angle)) / 2
        return jnp.where(step >= num_steps, final, initial + rise)

    return schedule


@described
def step(values: Sequence[float], boundaries: Sequence[int]) -> Schedule:
    """A staircase: `values[i]` from step `boundaries[i - 1]` to before `boundaries[i]`.

    Args:
      values: one more than boundaries.
      boundaries: the steps at which the next value begins, increasing.

    Returns:
      `step -> value`, for a Python, NumPy or traced step, or an array of steps.

    Raises:
      TypeError, ValueError: for values that are not numbers, boundaries that are not
        increasing integers, or if there is not one value more than boundaries.

    Example:
      >>> import attent_jax
      >>> ratio = attent_jax.schedules.step([0.2, 0.5, 0.8], boundaries=[10, 20])
      >>> [round(float(ratio(step)), 3) for step in (0, 9, 10, 19, 20, 99)]
      [0.2, 0.2, 0.5, 0.5, 0.8, 0.8]
    """
    values = [check_number(f"values[{i}]", value) for i, value in enumerate(values)]
    boundaries = [
        check_count(f"boundaries[{i}]", boundary, minimum=0)
        for i, boundary in enumerate(boundaries)
    ]
    if len(values) != len(boundaries) + 1:
        raise ValueError(
            f"values must have one entry more than boundaries, got {len(values)} and "
            f"{len(boundaries)}: give the value before the first boundary too."
        )
    if any(np.diff(boundaries) <= 0):
        raise ValueError(f"boundaries must increase, got {boundaries}: sort them.")

    def schedule(step):
        """`step -> value`, on a staircase."""
        stairs = jnp.searchsorted(
            jnp.array(boundaries, jnp.int32), jnp.asarray(step), side="right"
        )
        return jnp.array(values)[stairs]

    return schedule
