"""Agreement between processes, so that all take the same branch."""

import functools

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def agree(flag: bool) -> bool:
    """The first process's value."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.array(flag)))


def wait_for_all() -> None:
    """Return when all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("study")


class AnyProcess:
    """Whether each of some flags is true on some process.

    With several processes the answer is that of the call before, so that nobody waits
    for the devices. All processes call it together.
    """

    def __init__(self):
        self._asked: jax.Array | None = None

    def __call__(self, *flags: bool) -> tuple[bool, ...]:
        """The flags that are, or at the call before were, true somewhere."""
        if jax.process_count() == 1:
            return flags
        asked, self._asked = self._asked, _any(flags)
        return tuple(map(bool, asked)) if asked is not None else (False,) * len(flags)

    def forget(self) -> None:
        """Leave the last call without an answer."""
        self._asked = None


def _any(flags: tuple[bool, ...]) -> jax.Array:
    """The answer for all, on its way."""
    devices = np.array(jax.devices()).reshape(jax.process_count(), -1)
    mesh = Mesh(devices, ("process", "device"))
    by_process = jax.make_array_from_process_local_data(
        NamedSharding(mesh, PartitionSpec("process")), np.array([flags])
    )
    return _any_over(NamedSharding(mesh, PartitionSpec()))(by_process)


@functools.cache
def _any_over(everywhere: NamedSharding):
    return jax.jit(lambda flags: flags.any(axis=0), out_shardings=everywhere)
