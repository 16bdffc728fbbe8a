"""Meshes of devices, and shardings over them."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from attent_jax._checks import check_count

_AXES = ("data", "fsdp")


def make_mesh(
    *,
    data: int | None = None,
    fsdp: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """A mesh of `data` × `fsdp` devices, over all processes.

    Batches are split over both axes, large parameters over "fsdp" alone: along "data"
    they are replicated. XLA plans the communication (`AxisType.Auto`).

    Args:
      data: the length of the axis "data". None: number of devices / `fsdp`.
      fsdp: the length of the axis "fsdp".
      devices: None: all devices of all processes.

    Returns:
      A `jax.sharding.Mesh` with the axes "data" and "fsdp".

    Raises:
      TypeError, ValueError: if data or fsdp is not an integer >= 1, or their product is
        not the number of devices.

    Example:
      >>> import jax, attent_jax
      >>> mesh = attent_jax.distributed.make_mesh(devices=jax.devices()[:1])
      >>> dict(mesh.shape)
      {'data': 1, 'fsdp': 1}
    """
    fsdp = check_count("fsdp", fsdp)
    devices = jax.devices() if devices is None else list(devices)
    if data is None:
        data = max(1, len(devices) // fsdp)
    data = check_count("data", data)
    if data * fsdp != len(devices):
        raise ValueError(
            f"data={data} times fsdp={fsdp} is {data * fsdp} devices but there are "
            f"{len(devices)}: choose lengths whose product is that number, or pass as "
            f"many devices."
        )
    return jax.make_mesh(
        (data, fsdp), _AXES, axis_types=(AxisType.Auto,) * 2, devices=devices
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays that every device holds in full.

    Example:
      >>> import attent_jax
      >>> mesh = attent_jax.distributed.make_mesh()
      >>> attent_jax.distributed.replicated(mesh).is_fully_replicated
      True
    """
    _check_mesh(mesh)
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its leading axis split over all devices.

    Raises:
      ValueError: if the mesh does not have the axes "data" and "fsdp".

    Example:
      >>> import attent_jax
      >>> mesh = attent_jax.distributed.make_mesh()
      >>> tuple(attent_jax.distributed.batch_sharding(mesh).spec)
      (('data', 'fsdp'),)
    """
    _check_axes(mesh)
    return NamedSharding(mesh, PartitionSpec(_AXES))


def fsdp_shardings(mesh: Mesh, tree: Any, *, min_size: int = 2**14) -> Any:
    """Shardings of a train state that split its large leaves over the mesh.

    Each large leaf is split over "fsdp" along its longest axis that divides evenly,
    the first of several; others are replicated.

    Args:
      mesh: from `make_mesh`.
      tree: parameters, an optimizer's state or a whole `TrainState`, arrays or
        abstract (`jax.eval_shape`).
      min_size: elements of the smallest leaf worth splitting.

    Returns:
      A pytree like `tree` of `NamedSharding`, for `put`, `jax.jit` or a checkpoint's
      restoration.

    Raises:
      TypeError, ValueError: if min_size is not an integer >= 0, or the mesh does not
        have the axes "data" and "fsdp".

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> mesh = attent_jax.distributed.make_mesh(data=1, fsdp=jax.device_count())
      >>> params = {"w": jnp.ones((64, 512)), "b": jnp.ones(512)}
      >>> shardings = attent_jax.distributed.fsdp_shardings(mesh, params)
      >>> tuple(shardings["w"].spec), tuple(shardings["b"].spec)
      ((None, 'fsdp'), ())
    """
    _check_axes(mesh)
    min_size = check_count("min_size", min_size, minimum=0)

    def layout(leaf: Any) -> NamedSharding:
        shape = np.shape(leaf)
        even = [axis for axis, n in enumerate(shape) if n % mesh.shape["fsdp"] == 0]
        if not even or np.prod(shape) < min_size:
            return replicated(mesh)
        longest = max(even, key=shape.__getitem__)
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree.map(layout, tree)


def _check_mesh(mesh: Any) -> None:
    if not isinstance(mesh, Mesh | AbstractMesh):
        raise TypeError(
            f"mesh must be a jax.sharding.Mesh, got {type(mesh).__name__}: make it "
            f"with attent_jax.distributed.make_mesh, and pass it first."
        )


def _check_axes(mesh: Mesh) -> None:
    _check_mesh(mesh)
    if not set(_AXES) <= set(mesh.axis_names):
        raise ValueError(
            f"mesh must have the axes {_AXES}, got {mesh.axis_names}: make it with "
            f"attent_jax.distributed.make_mesh."
        )
