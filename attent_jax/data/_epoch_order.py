"""The order of an epoch, computed on the device."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from attent_jax._checks import check_count, check_rng
from attent_jax._partition import partition
from attent_jax.data._pools import check_batch_size
from attent_jax.typing import Selection, TeacherState


class EpochOrder(NamedTuple):
    """Which examples each step of an epoch trains on."""

    ids: Int[Array, "steps batch"]
    """`[steps, batch]`"""
    weights: Float[Array, "steps batch"]
    """`[steps, batch]` the selection's loss weights; 0 for padding."""
    num_steps: Int[Array, ""]
    """`[]` how many steps have examples; the later ones are padding alone."""


def epoch_order(
    rng: jax.Array,
    selection: Selection,
    batch_size: int,
    num_steps: int | None = None,
) -> EpochOrder:
    """Shuffle the selected examples and cut them into batches, on the device.

    It does what `epoch_batches` does on the host, with static shapes: it works under
    `jit`, `vmap` and `scan`, so that a whole curriculum, order included, is one
    `lax.scan`. Every selected example appears exactly once, and each order is equally
    likely. The last batch is padded with copies of one selected example at weight 0,
    and so are the steps after it. Do not train on those: loop over `order.num_steps`
    with `lax.fori_loop`, or skip them with `lax.cond`.

    Args:
      rng: a typed key. One key, one order: fold the epoch into it.
      selection: a teacher's `state.selection`.
      batch_size: examples in a step.
      num_steps: number of steps, static. None: as many as the whole pool takes. With
        fewer than the selection takes, the remaining examples are left out.

    Returns:
      An `EpochOrder`.

    Raises:
      TypeError, ValueError: if rng is not a typed key, selection is not a `Selection`,
        batch_size is out of range (see `epoch_batches`), or num_steps is below 1.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> key = jax.random.key(0)
      >>> selection = attent_jax.selectors.top_k()(key, jnp.arange(10.0), 3)
      >>> order = attent_jax.data.epoch_order(key, selection, batch_size=2)
      >>> order.ids.shape, int(order.num_steps)
      ((5, 2), 2)
      >>> order.weights[:3].tolist()
      [[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
      >>> sorted(order.ids[order.weights > 0].tolist())
      [7, 8, 9]
    """
    check_rng("rng", rng)
    check_selection(selection)
    pool_size = selection.indices.size
    batch_size = check_batch_size(batch_size, pool_size)
    if num_steps is None:
        num_steps = -(-pool_size // batch_size)
    num_steps = check_count("num_steps", num_steps)
    if num_steps * batch_size >= 2**31:
        raise ValueError(
            f"num_steps={num_steps} of batch_size={batch_size} are 2**31 examples or "
            f"more: lower one of them."
        )
    return _order(rng, selection, batch_size, num_steps)


def check_selection(selection: Any) -> None:
    """Refuse anything but a `Selection`."""
    if not isinstance(selection, Selection):
        remedy = (
            "pass its selection, state.selection"
            if isinstance(selection, TeacherState)
            else "pass what a selector returns, or a teacher's state.selection"
        )
        raise TypeError(
            f"selection must be a Selection, got {type(selection).__name__}: {remedy}."
        )


@partial(jax.jit, static_argnums=(2, 3))
def _order(
    rng: jax.Array, selection: Selection, batch_size: int, num_steps: int
) -> EpochOrder:
    indices, weights, num_selected = selection
    # The selected positions in the order in which a shuffle of the whole pool has them.
    shuffled = jax.random.permutation(rng, lax.iota(jnp.int32, indices.size))
    shuffled = shuffled[partition(shuffled < num_selected)]
    entry = lax.iota(jnp.int32, num_steps * batch_size)
    position = shuffled[jnp.minimum(entry, num_selected - 1)]
    weights = jnp.where(entry < num_selected, weights[position], 0)
    num_full = -(-num_selected // batch_size)
    return EpochOrder(
        ids=indices[position].reshape(num_steps, batch_size),
        weights=weights.reshape(num_steps, batch_size),
        num_steps=jnp.minimum(num_full, num_steps).astype(jnp.int32),
    )
