"""In-batch selection: gradients of the rows worth learning from."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int, PyTree

from attent_jax._checks import (
    check_count,
    check_per_example,
    check_rng,
    check_select_fn,
    leading_size,
)
from attent_jax._trainable import partition_params
from attent_jax.distributed._global_arrays import count_shards
from attent_jax.training._weighted_loss import (
    LossesAndAux,
    check_loss_fn,
    shares,
    weighted_sum,
    with_aux,
)
from attent_jax.training.selective._groups import (
    batch_rows,
    select_in_groups,
    split_over,
    take_in_groups,
)
from attent_jax.training.selective._partial_vjp import partial_vjp
from attent_jax.typing import Batch, LossFn, Params, Rng, ScoreFn, SelectFn


class SelectiveInfo(NamedTuple):
    """Diagnostics of a selective gradient; may be discarded."""

    scores: Float[Array, "batch"]
    """`[batch]` the scores by which the rows were selected."""
    indices: Int[Array, "selected"]
    """`[num_selected]` the rows taught, numbered over the whole batch."""
    weights: Float[Array, "selected"]
    """`[num_selected]` their loss weights."""
    losses: Float[Array, "selected"]
    """`[num_selected]` their losses, before the update."""
    aux: PyTree
    """The loss function's auxiliary output for these rows; None without `has_aux`."""


class SelectionLayout(NamedTuple):
    """How many rows are selected, among which, and by how many passes."""

    num_selected: int
    num_groups: int
    reuse_forward: bool
    sharding: NamedSharding | None


def selective_value_and_grad(
    loss_fn: LossFn | Callable[..., Any],
    select_fn: SelectFn,
    *,
    num_selected: int,
    num_groups: int = 1,
    score_fn: ScoreFn | None = None,
    reuse_forward: bool = False,
    has_aux: bool = False,
    sharding: NamedSharding | None = None,
) -> Callable[
    [Params, jax.Array | None, Batch],
    tuple[tuple[Float[Array, ""], SelectiveInfo], Params],
]:
    """`jax.value_and_grad` of the mean loss over the rows worth learning from.

    By default in two passes: the batch is scored, then forward and backward run on the
    selected rows, (1 + 3r) / 3 of a full step's FLOPs for r = num_selected / batch.
    With `reuse_forward`, one forward pass serves both: what it kept for the backward
    pass is gathered for the selected rows, and the backward pass runs on those,
    (1 + 2r) / 3. Both are exact: their gradient is that of the selected rows alone.
    Re-use holds the residuals of all rows and copies those of the selected rows: it
    saves time where arithmetic is the bottleneck, but no memory over two passes.

    Re-use needs a loss whose rows do not meet, and proves it from the traced program:
    batch norm, or an operation it has no rule for, is refused. Rows keep the random
    draws (dropout, masks) of the forward pass; two passes draw their own.

    On a mesh, under `jit`, the selected rows must be spread over the devices, or every
    device computes all of them. Use as many groups as the batch has shards: each
    device then selects and gathers among its own rows. For a selection over the whole
    batch in two passes, pass `sharding`: the selected rows are laid out again by it.

    Args:
      loss_fn: `(params, rng, batch) -> [batch]`, or with `has_aux`
        `-> ([batch], aux)`, aux a pytree of per-example arrays `[batch, ...]`.
      select_fn: which rows, given the scores.
      num_selected: how many, static.
      num_groups: the batch is taken as this many equal, contiguous groups, and each
        selects num_selected / num_groups of its rows. It must divide both numbers. The
        result does not depend on the number of devices.
      score_fn: `(params, rng, batch) -> [batch]`. None: the loss is the score.
      reuse_forward: one forward pass instead of two.
      has_aux: whether `loss_fn` returns auxiliary output.
      sharding: how a batch is split over the devices under `jit`, e.g.
        `distributed.batch_sharding(mesh)`. The number of shards must divide the batch
        and num_selected, and with `reuse_forward` num_groups.

    Returns:
      `(params, rng, batch) -> ((loss, info), grads)`, to be jitted by the caller. The
      loss is Σ w_i L_i / Σ w_i over the selected rows, by the selector's weights. rng
      may be None if neither loss nor selector needs one. Under `shard_map` each shard
      selects `num_selected` of its own rows, and no activation moves.

    Raises:
      TypeError, ValueError: if loss_fn, score_fn or select_fn is of another kind (a
        selector's factory without its parentheses, say), or for counts that do not
        divide as above. From the function: if num_selected exceeds the batch, for
        parameters without a gradient, losses or aux that are not per example, or, with
        `reuse_forward`, for a loss that is not proven to keep its rows apart.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> def loss_fn(w, rng, batch):
      ...     return (batch - w) ** 2 / 2
      >>> value_and_grad = attent_jax.training.selective_value_and_grad(
      ...     loss_fn, attent_jax.selectors.top_k(), num_selected=2, reuse_forward=True)
      >>> batch = jnp.array([1.0, 9.0, 2.0, 7.0])
      >>> (loss, info), grad = jax.jit(value_and_grad)(jnp.array(0.0), None, batch)
      >>> info.indices.tolist(), float(loss), float(grad)
      ([1, 3], 32.5, -8.0)

    Reference: Jiang et al., Accelerating Deep Learning by Focusing on the Biggest
    Losers (arXiv 1910.00762), for two passes.
    """
    losses_and_aux = with_aux(loss_fn, has_aux)
    check_selection_fns(select_fn, score_fn)
    layout = check_layout(num_selected, num_groups, reuse_forward, sharding)

    def value_and_grad(params, rng, batch):
        return value_and_grad_of_selected(
            losses_and_aux, select_fn, score_fn, layout, params, rng, batch, None
        )

    return value_and_grad


def check_selection_fns(select_fn: SelectFn, score_fn: ScoreFn | None) -> None:
    """Refuse what is not a selector, or not a score function."""
    check_select_fn("select_fn", select_fn)
    if score_fn is not None:
        check_loss_fn("score_fn", score_fn)


def check_layout(
    num_selected: int,
    num_groups: int,
    reuse_forward: bool,
    sharding: NamedSharding | None,
) -> SelectionLayout:
    """The arguments, checked against each other."""
    num_selected = check_count("num_selected", num_selected)
    num_groups = check_count("num_groups", num_groups)
    if num_selected % num_groups:
        raise ValueError(
            f"num_groups={num_groups} does not divide num_selected={num_selected}: "
            f"each group selects the same number of rows, so choose a multiple of "
            f"{num_groups}, e.g. {num_selected + -num_selected % num_groups}."
        )
    if sharding is not None:
        if not isinstance(sharding, NamedSharding):
            raise TypeError(
                f"sharding must be a jax.sharding.NamedSharding, got {sharding!r}: "
                f"pass e.g. attent_jax.distributed.batch_sharding(mesh)."
            )
        num_shards = count_shards(sharding)
        if num_selected % num_shards:
            raise ValueError(
                f"num_selected={num_selected} rows do not divide over the sharding's "
                f"{num_shards} shards: choose a multiple of {num_shards}, e.g. "
                f"{num_selected + -num_selected % num_shards}."
            )
        if reuse_forward and num_groups % num_shards:
            raise ValueError(
                f"reuse_forward=True with num_groups={num_groups} would move "
                f"activations between the sharding's {num_shards} shards: pass "
                f"num_groups={num_shards} or a multiple of it, so that each device "
                f"selects among its own rows, or reuse_forward=False."
            )
    return SelectionLayout(num_selected, num_groups, reuse_forward, sharding)


def value_and_grad_of_selected(
    losses_and_aux: LossesAndAux,
    select_fn: SelectFn,
    score_fn: ScoreFn | None,
    layout: SelectionLayout,
    params: Params,
    rng: Rng,
    batch: Batch,
    row_weights: Float[Array, "batch"] | None,
) -> tuple[tuple[Float[Array, ""], SelectiveInfo], Params]:
    """`((loss, info), grads)` as of `selective_value_and_grad`.

    Rows whose weight in `row_weights` is 0 are selected last.
    """
    check_rng("rng", rng, optional=True)
    partition_params(params)  # refuses parameters without a gradient
    num_examples = leading_size("batch", batch)
    _check_batch(num_examples, layout)
    _check_mesh(batch)
    rng, select_rng = (None, None) if rng is None else jax.random.split(rng)
    batch = split_over(layout.sharding, batch)

    def per_example(params, rng, batch):
        losses, aux = losses_and_aux(params, rng, batch)
        _check_aux(aux, len(losses))
        return losses, aux

    def select(losses_fn):
        scores = losses_fn() if score_fn is None else score_fn(params, rng, batch)
        check_per_example("score_fn", scores, num_examples)
        scores = lax.stop_gradient(jnp.asarray(scores))
        if not jnp.issubdtype(scores.dtype, jnp.floating):
            raise TypeError(
                f"scores must be floating point, got {scores.dtype}: let "
                f"{'loss_fn' if score_fn is None else 'score_fn'} return floats."
            )
        indices, weights = select_in_groups(
            select_fn,
            select_rng,
            scores,
            row_weights,
            layout.num_selected,
            layout.num_groups,
        )
        rows = batch_rows(indices, num_examples)
        return scores, indices, weights.reshape(-1), rows

    if layout.reuse_forward:
        all_losses, all_aux, gradient = partial_vjp(
            per_example, params, rng, batch, layout.num_selected
        )
        scores, indices, weights, rows = select(lambda: all_losses)
        losses, aux = jax.tree.map(
            lambda leaf: take_in_groups(leaf, indices), (all_losses, all_aux)
        )
        share = shares(weights, jnp.sum(weights))
        loss = weighted_sum(losses, share)
        # Of the losses' type, which under shard_map says that it varies.
        cotangents = share.astype(losses.dtype) + jnp.zeros_like(losses)
        grads = gradient(indices, cotangents)
    else:
        scores, indices, weights, rows = select(
            lambda: per_example(params, rng, batch)[0]
        )
        chosen = split_over(
            layout.sharding,
            jax.tree.map(lambda leaf: take_in_groups(leaf, indices), batch),
        )
        share = shares(weights, jnp.sum(weights))

        def mean_loss(params):
            losses, aux = per_example(params, rng, chosen)
            return weighted_sum(losses, share), (losses, aux)

        grad_fn = jax.value_and_grad(mean_loss, has_aux=True)
        (loss, (losses, aux)), grads = grad_fn(params)
    return (loss, SelectiveInfo(scores, rows, weights, losses, aux)), grads


def _check_batch(num_examples: int, layout: SelectionLayout) -> None:
    if layout.num_selected > num_examples:
        raise ValueError(
            f"num_selected must be at most the batch's {num_examples} examples, "
            f"got {layout.num_selected}: lower it, or enlarge the batch."
        )
    if num_examples % layout.num_groups:
        raise ValueError(
            f"num_groups={layout.num_groups} does not divide the batch's "
            f"{num_examples} examples: groups are equal, so choose a divisor, or pad "
            f"the batch."
        )
    num_shards = 1 if layout.sharding is None else count_shards(layout.sharding)
    if num_examples % num_shards:
        raise ValueError(
            f"the batch's {num_examples} examples do not divide over the sharding's "
            f"{num_shards} shards: choose a multiple of {num_shards}."
        )


def _check_mesh(batch: Batch) -> None:
    for leaf in jax.tree.leaves(batch):
        spec = jax.typeof(leaf).sharding.spec  # names explicit axes only
        if any(axis is not None for axis in spec):
            raise ValueError(
                f"batch is split over explicit mesh axes, as {spec}: rows are selected "
                f"on a mesh with axis_types of jax.sharding.AxisType.Auto, as "
                f"attent_jax.distributed.make_mesh makes."
            )


def _check_aux(aux: Any, num_examples: int) -> None:
    if jax.tree.leaves(aux) and leading_size("aux", aux) != num_examples:
        raise ValueError(
            f"aux has a leading axis of {leading_size('aux', aux)} but the batch "
            f"{num_examples} examples: return per-example arrays."
        )
