"""The order of an epoch on the device, and a whole curriculum in one scan."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from attent_jax import data, schedules, scores, selectors, teachers, training
from attent_jax.data import epoch_batches, epoch_order
from attent_jax.typing import Selection
from tests.compilations import compilations
from tests.families import examples, learner, loss_fn

KEY = jax.random.key(0)


def selection_of(pool_size: int, num_selected: int, seed: int = 0) -> Selection:
    """Its weights say which example they are of."""
    selection = selectors.uniform()(
        jax.random.key(seed), jnp.zeros(pool_size), num_selected
    )
    is_selected = jnp.arange(pool_size) < num_selected
    return selection._replace(
        weights=jnp.where(is_selected, 1.0 + selection.indices.astype(jnp.float32), 0.0)
    )


@given(
    # few shapes, as each is compiled
    pool_size=st.sampled_from([1, 30]),
    batch_size=st.sampled_from([4, 40]),
    num_steps=st.sampled_from([None, 1, 3]),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_each_selected_example_comes_once_with_its_weight(
    pool_size, batch_size, num_steps, share, seed
):
    num_selected = max(1, int(share * pool_size))
    most = -(-pool_size // batch_size)
    selection = selection_of(pool_size, num_selected, seed)
    order = epoch_order(jax.random.key(seed), selection, batch_size, num_steps)
    ids, weights = np.ravel(order.ids), np.ravel(order.weights)
    num_steps = num_steps or most
    assert order.ids.shape == order.weights.shape == (num_steps, batch_size)
    assert (order.ids.dtype, order.weights.dtype) == (jnp.int32, jnp.float32)
    num_taught = min(num_selected, num_steps * batch_size)
    np.testing.assert_array_equal(weights > 0, np.arange(len(ids)) < num_taught)
    np.testing.assert_array_equal(weights[:num_taught], 1.0 + ids[:num_taught])
    selected = set(selection.indices[:num_selected].tolist())
    assert len(set(ids[:num_taught].tolist())) == num_taught
    assert set(ids.tolist()) <= selected  # padding is no other example
    assert int(order.num_steps) == min(-(-num_selected // batch_size), num_steps)


@pytest.mark.parametrize("num_selected", [3, 4])
def test_every_order_is_equally_likely(num_selected):
    selection, num_draws = selection_of(6, num_selected), 12_000
    rngs = jax.random.split(KEY, num_draws)
    orders = jax.vmap(lambda rng: epoch_order(rng, selection, 6, 1).ids[0])(rngs)
    counts = Counter(map(tuple, np.asarray(orders)[:, :num_selected].tolist()))
    num_orders = {3: 6, 4: 24}[num_selected]
    assert len(counts) == num_orders
    expected = num_draws / num_orders
    # six standard deviations of a binomial count; a swap left out is off by far more
    assert max(abs(n - expected) for n in counts.values()) < 6 * expected**0.5


def test_the_order_under_jit_and_vmap_is_the_eager_one():
    rngs = jax.random.split(KEY, 5)
    counts = [1, 4, 7, 10, 11]
    selections = [selection_of(11, count, seed) for seed, count in enumerate(counts)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *selections)
    order = partial(epoch_order, batch_size=4)
    at_once = jax.jit(jax.vmap(order))(rngs, stacked)
    for i, selection in enumerate(selections):
        eager, compiled = order(rngs[i], selection), jax.jit(order)(rngs[i], selection)
        jax.tree.map(np.testing.assert_array_equal, eager, compiled)
        one = jax.tree.map(lambda leaf, i=i: leaf[i], at_once)
        jax.tree.map(np.testing.assert_array_equal, eager, one)


def test_one_compilation_serves_all_counts():
    order = jax.jit(partial(epoch_order, batch_size=3))
    selections = [selection_of(11, count) for count in (2, 5, 11)]
    order(KEY, selections[0])
    with compilations() as compiled:
        for selection in selections:
            order(KEY, selection)
    assert compiled == []


def test_both_orders_have_the_same_steps():
    pool, selection = data.ArrayPool(np.arange(11)), selection_of(11, 7)
    order = epoch_order(KEY, selection, 3)
    on_host = list(epoch_batches(pool, selection, 3, seed=0))
    assert int(order.num_steps) == len(on_host)
    for step, batch in enumerate(on_host):
        np.testing.assert_array_equal(batch.weights > 0, order.weights[step] > 0)


POOL_SIZE, BATCH_SIZE, NUM_EPOCHS = 21, 4, 6
OPTIMIZER = optax.adam(0.02, eps=1e-2)
TEACHER = teachers.attent(
    selectors.gumbel_top_k(0.5),
    schedules.linear(0.2, 0.9, NUM_EPOCHS),
    schedules.linear(1, 3, NUM_EPOCHS),
)


def start():
    return (
        training.init_train_state(learner(), OPTIMIZER),
        TEACHER.init(POOL_SIZE),
        scores.ScoreTable.init(POOL_SIZE),
    )


def test_a_curriculum_is_one_scan():
    arrays = jax.tree.map(jnp.asarray, examples(POOL_SIZE))
    train_step = training.make_train_step(loss_fn, OPTIMIZER)

    @jax.jit
    def curriculum(carry):
        def epoch_of(carry, epoch):
            state, teaching, table = carry
            rng = jax.random.fold_in(KEY, epoch)
            teaching, _ = TEACHER.update(rng, teaching, table.scores)
            order = epoch_order(rng, teaching.selection, BATCH_SIZE)

            def step(i, carry):
                state, table = carry
                ids, weights = order.ids[i], order.weights[i]
                batch = jax.tree.map(lambda leaf: leaf[ids], arrays)
                state, info = train_step(state, None, batch, weights)
                return state, table.update(ids, info.losses, weights)

            state, table = lax.fori_loop(0, order.num_steps, step, (state, table))
            return (state, teaching, table), order

        return lax.scan(epoch_of, carry, jnp.arange(NUM_EPOCHS))

    first = jax.block_until_ready(start())
    with compilations() as compiled:
        (state, teaching, table), orders = jax.block_until_ready(curriculum(first))
    assert len(compiled) == 1
    assert len(set(orders.num_steps.tolist())) > 2  # the ratio moves

    expected, taught, losses = start()
    pool = data.ArrayPool(examples(POOL_SIZE))
    for epoch in range(NUM_EPOCHS):
        rng = jax.random.fold_in(KEY, epoch)
        taught, _ = TEACHER.update(rng, taught, losses.scores)
        order = epoch_order(rng, taught.selection, BATCH_SIZE)
        np.testing.assert_array_equal(order.ids, orders.ids[epoch])
        for i in range(int(order.num_steps)):
            batch = pool.take(np.asarray(order.ids[i]))
            expected, info = train_step(expected, None, batch, order.weights[i])
            losses = losses.update(order.ids[i], info.losses, order.weights[i])
    jax.tree.map(np.testing.assert_array_equal, teaching, taught)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=0, atol=1e-6),
        (state, table),
        (expected, losses),
    )


CASES = {
    "a raw key": (
        lambda: epoch_order(jax.random.PRNGKey(0), selection_of(5, 2), 2),
        "rng must be a typed key",
    ),
    "a teacher's state": (
        lambda: epoch_order(KEY, TEACHER.init(5), 2),  # pyright: ignore[reportArgumentType]
        r"selection must be a Selection, got TeacherState: .*state\.selection",
    ),
    "no batch": (
        lambda: epoch_order(KEY, selection_of(5, 2), 0),
        "batch_size must be at least 1, got 0",
    ),
    "a batch beyond memory": (
        lambda: epoch_order(KEY, selection_of(5, 2), 10**12),
        "batch_size must be at most 1048576 for a pool of 5",
    ),
    "no step": (
        lambda: epoch_order(KEY, selection_of(5, 2), 2, 0),
        "num_steps must be at least 1, got 0",
    ),
    "steps beyond int32": (
        lambda: epoch_order(KEY, selection_of(5, 2), 2**20, 2**11),
        "num_steps=2048 of batch_size=1048576 are 2.*lower one",
    ),
}


@pytest.mark.parametrize(("act", "message"), CASES.values(), ids=CASES.keys())
def test_what_has_no_order_is_refused(act, message):
    with pytest.raises((TypeError, ValueError), match=message):
        act()
