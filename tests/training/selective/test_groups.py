"""Selection within equal, contiguous groups of the batch."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from attent_jax import selectors
from attent_jax.distributed import batch_sharding, make_mesh
from attent_jax.training import (
    init_train_state,
    make_selective_train_step,
    selective_value_and_grad,
)
from attent_jax.training.selective._groups import take_in_groups
from tests.training.learners import (
    assert_close,
    decoder,
    low_rank,
    scan_over_layers,
    vmapped,
)

both_ways = pytest.mark.parametrize(
    "reuse_forward", [False, True], ids=["two passes", "re-use"]
)
NUM_GROUPS = 3  # of two rows, of the learners' six
OPTIMIZER = optax.sgd(0.1)


@pytest.mark.parametrize(
    ("build", "reuse_forward"),
    [
        (scan_over_layers, False),
        (scan_over_layers, True),
        (decoder, True),
        (low_rank, True),
        (vmapped, True),
    ],
)
def test_each_group_teaches_its_hardest_row(build, reuse_forward):
    learner = build()
    value_and_grad = selective_value_and_grad(
        learner.loss_fn,
        selectors.top_k(),
        num_selected=NUM_GROUPS,
        num_groups=NUM_GROUPS,
        reuse_forward=reuse_forward,
    )
    (loss, info), grads = jax.jit(value_and_grad)(learner.params, None, learner.batch)
    losses = jax.jit(learner.loss_fn)(learner.params, None, learner.batch)
    hardest = np.asarray(losses).reshape(NUM_GROUPS, 2).argmax(axis=1)
    assert info.indices.tolist() == (2 * np.arange(NUM_GROUPS) + hardest).tolist()
    rows = jax.tree.map(lambda leaf: leaf[info.indices], learner.batch)

    def mean_loss(params):
        return jnp.mean(learner.loss_fn(params, None, rows))

    expected = jax.jit(jax.value_and_grad(mean_loss))(learner.params)
    assert_close((loss, grads), expected, 3e-6)
    assert_close(info.losses, losses[info.indices], 1e-6)


def per_row(params, rng, batch):
    return (batch - params) ** 2


@given(st.sampled_from([1, 2, 3, 4, 6, 12]), st.data())
@settings(max_examples=8)
def test_groups_are_selections_of_their_own(num_groups, data):
    """Against the selector called on each group by itself."""
    draw = data.draw
    per_group = draw(st.integers(1, 12 // num_groups))
    weights = np.array(draw(st.lists(st.integers(0, 2), min_size=12, max_size=12)))
    batch = np.random.default_rng(draw(st.integers(0, 99))).normal(size=12)
    batch = batch.astype(np.float32)
    step = make_selective_train_step(
        per_row,
        OPTIMIZER,
        selectors.top_k(),
        num_selected=num_groups * per_group,
        num_groups=num_groups,
    )
    state = init_train_state(jnp.array(0.0), OPTIMIZER)
    _, info = step(state, None, batch, jnp.asarray(weights, jnp.float32))
    scores = np.where(weights > 0, batch**2, -1).reshape(num_groups, -1)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :per_group]
    expected = expected + 12 // num_groups * np.arange(num_groups)[:, None]
    found = info.indices.reshape(num_groups, per_group)
    for row, expected_row in zip(np.asarray(found), expected, strict=True):
        assert set(row.tolist()) == set(expected_row.tolist())
    taught = weights[expected.ravel()]
    losses = (batch**2)[expected.ravel()]
    mean = (taught * losses).sum() / max(taught.sum(), 1)
    np.testing.assert_allclose(info.loss, mean, rtol=1e-5)


@pytest.mark.parametrize(("axis", "block"), [(0, 1), (0, 3), (1, 1), (2, 4)])
@pytest.mark.parametrize("num_groups", [1, 2, 4])
def test_rows_of_any_axis_are_taken_group_by_group(axis, block, num_groups):
    shape = [2, 3, 5]
    shape[axis] = 8 * block
    leaf = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    indices = np.array([[1, 0]] * num_groups) % (8 // num_groups)
    rows = (indices + 8 // num_groups * np.arange(num_groups)[:, None]).ravel()
    entries = (rows[:, None] * block + np.arange(block)).ravel()
    found = take_in_groups(leaf, jnp.asarray(indices), axis, block)
    np.testing.assert_array_equal(found, leaf.take(entries, axis))


def test_each_group_draws_its_own():
    value_and_grad = selective_value_and_grad(
        per_row, selectors.uniform(), num_selected=16, num_groups=16
    )
    batch = jnp.ones(16 * 8)
    (_, info), _ = value_and_grad(jnp.array(0.0), jax.random.key(0), batch)
    assert len(set((info.indices % 8).tolist())) > 4


MESH = make_mesh(devices=jax.devices()[:4])
SPLIT = batch_sharding(MESH)


def make(options):
    return make_selective_train_step(
        per_row, OPTIMIZER, selectors.top_k(), **{"num_selected": 8, **options}
    )


def run(options):
    state = init_train_state(jnp.array(0.0), OPTIMIZER)
    return make(options)(state, None, jnp.ones(10), jnp.ones(10))


BAD: dict[str, Any] = {
    "groups that share unequally": (
        {"num_groups": 3},
        "num_groups=3 does not divide num_selected=8: .* e.g. 9",
    ),
    "unequal groups": (
        {"num_groups": 4},
        "num_groups=4 does not divide the batch's 10 examples",
    ),
    "no groups": ({"num_groups": 0}, "num_groups must be at least 1"),
    "rows that shards share unequally": (
        {"num_selected": 6, "sharding": SPLIT},
        "num_selected=6 rows do not divide over the sharding's 4 shards: .* e.g. 8",
    ),
    "a batch that shards share unequally": (
        {"sharding": SPLIT},
        "batch's 10 examples do not divide over the sharding's 4 shards",
    ),
    "re-use of a global selection": (
        {"sharding": SPLIT, "reuse_forward": True},
        "reuse_forward=True with num_groups=1 would move .* pass num_groups=4",
    ),
    "a mesh for a sharding": (
        {"sharding": MESH},
        r"sharding must be a jax.sharding.NamedSharding, .*batch_sharding\(mesh\)",
    ),
    "both roads": (
        {"sharding": SPLIT, "axis_name": "data"},
        "sharding= is for jit over a mesh, axis_name='data' for shard_map",
    ),
    "scores of integers": (
        {"score_fn": lambda params, rng, batch: jnp.arange(10)},
        "scores must be floating point, got int32: let score_fn return floats",
    ),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_what_does_not_divide_is_refused(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        run(options)


@pytest.mark.parametrize("select_fn", [selectors.top_k, selectors.uniform, None, 3])
def test_a_factory_without_its_parentheses_is_refused(select_fn):
    with pytest.raises(TypeError, match=r"select_fn must be a selector, got .*top_k\("):
        selective_value_and_grad(per_row, select_fn, num_selected=2)
    with pytest.raises(TypeError, match="select_fn must be a selector"):
        make_selective_train_step(per_row, OPTIMIZER, select_fn, num_selected=2)


def test_swapped_arguments_are_refused():
    swapped: Any = (per_row, selectors.top_k(), OPTIMIZER)
    with pytest.raises(TypeError, match="optimizer must be an optax"):
        make_selective_train_step(*swapped, num_selected=2)
    with pytest.raises(TypeError, match="select_fn must be a selector"):
        selective_value_and_grad(per_row, swapped[2], num_selected=2)


@pytest.mark.parametrize("loss_fn", [None, 3.0, lambda params, batch: batch])
def test_what_is_no_loss_function_is_refused(loss_fn):
    with pytest.raises(TypeError, match=r"loss_fn must be a function \(params"):
        selective_value_and_grad(loss_fn, selectors.top_k(), num_selected=2)
    with pytest.raises(TypeError, match="score_fn must be a function"):
        selective_value_and_grad(
            per_row, selectors.top_k(), num_selected=2, score_fn=cast(Any, loss_fn or 3)
        )


@both_ways
def test_sharding_lays_the_selected_rows_out_over_the_mesh(reuse_forward):
    """And the step is that of one device, whatever the layout."""
    batch = np.random.default_rng(0).normal(size=16).astype(np.float32)
    options = {"reuse_forward": reuse_forward, "num_groups": 4 if reuse_forward else 1}
    state = init_train_state(jnp.array(0.5), OPTIMIZER)
    expected, expected_info = make(options)(state, None, batch, jnp.ones(16))
    split = NamedSharding(MESH, PartitionSpec(MESH.axis_names))
    step = make({**options, "sharding": split})
    placed = jax.device_put((batch, jnp.ones(16)), split)
    new, info = step(state, None, *placed)
    np.testing.assert_array_equal(info.indices, expected_info.indices)
    np.testing.assert_allclose(new.params, expected.params, rtol=1e-6)
    assert {shard.data.shape for shard in info.losses.addressable_shards} == {(2,)}
