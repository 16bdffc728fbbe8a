"""The ratio and interval schedules of a teacher, and the values they may take."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from attent_jax._checks import shown, takes
from attent_jax.typing import Schedule

_EXAMPLE = "attent_jax.schedules.linear(0.2, 0.8, 30)"


def check_schedule(name: str, schedule: Any) -> None:
    """Refuse a callable that does not map an epoch to a number."""
    value = None
    if takes(schedule, 1):
        try:
            value = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
        except TypeError as error:
            raise TypeError(
                f"{name} must be a schedule that jax can trace, got {shown(schedule)}: "
                f"pass what a factory returns, e.g. {_EXAMPLE}; in a function of your "
                f"own use jnp.where instead of Python's if."
            ) from error
    if not isinstance(value, jax.ShapeDtypeStruct) or value.shape != ():
        raise TypeError(
            f"{name} must be a number or a schedule, `epoch -> number`, got "
            f"{shown(schedule)}: pass e.g. {_EXAMPLE}."
        )


def check_values(epochs: Any, ratios: Any, intervals: Any) -> None:
    """Refuse ratios outside (0, 1] and intervals below 1, naming the epoch.

    Args:
      epochs: `[n]` the epochs' numbers.
      ratios: `[n]` the ratio in each.
      intervals: `[n]` the interval in each.
    """
    for name, values, inside, valid in (
        ("ratio", ratios, (ratios > 0) & (ratios <= 1), "in (0, 1]"),
        ("interval", intervals, intervals >= 1, "at least 1"),
    ):
        if not inside.all():
            first = np.argmin(inside)
            raise ValueError(
                f"{name} is {values[first]:g} at epoch {epochs[first]}: it must be "
                f"{valid} in every epoch, and not NaN; change the schedule's values or "
                f"its num_steps."
            )


def eager_check(
    ratio: Schedule, interval: Schedule, first: int, last: int
) -> Callable[[Any], None]:
    """A check of the schedules' values at an epoch, if that is concrete.

    The check does not wait for an accelerator's training steps: the epoch's number
    was computed before them, and the schedules are evaluated on the CPU.

    Args:
      ratio: the ratio schedule.
      interval: the interval schedule.
      first: the first epoch for which the values are used.
      last: the epoch from which they are not used any more.
    """

    @jax.jit
    def values_at(epoch):
        return jnp.asarray(ratio(epoch), float), jnp.asarray(interval(epoch), float)

    def check(epoch):
        if isinstance(epoch, Tracer) or not _is_readable(epoch):
            return
        epoch = np.asarray(jax.device_get(epoch), np.int32)
        with jax.default_device(_cpu()), jax.transfer_guard("allow"):  # host to host
            values = values_at(epoch)
        if any(isinstance(value, Tracer) for value in values):
            return  # within a trace
        if first <= epoch < last:
            check_values(*np.atleast_1d(epoch, *jax.device_get(values)))

    return check


def _is_readable(array: Any) -> bool:
    if not isinstance(array, jax.Array):
        return True
    return array.is_fully_addressable or array.is_fully_replicated


def _cpu():
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        return None
