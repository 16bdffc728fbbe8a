"""A selection turned into an epoch of batches, on the host."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attent_jax.data import ArrayPool, Pool, SourcePool, epoch_batches
from attent_jax.distributed import batch_sharding, make_mesh, put, replicated
from attent_jax.scores import ScoreTable
from attent_jax.selectors import uniform
from attent_jax.typing import Selection
from tests.data.sources import CountingSource, OwnPool, timeout_is_failure

POOL_SIZE = 23
POOL = ArrayPool(np.arange(POOL_SIZE) * 10)
MESH = make_mesh()
SPLIT = batch_sharding(MESH)


def selection_of(num_selected: int) -> Selection:
    return uniform()(jax.random.key(1), jnp.zeros(POOL_SIZE), num_selected)


def epoch(
    num_selected: int, batch_size: int, seed: Any = 0, pool: Pool = POOL, **options: Any
):
    """The epoch's ids, examples and weights, `[steps, batch]` each."""
    batches = epoch_batches(
        pool, selection_of(num_selected), batch_size, seed, **options
    )
    return tuple(map(np.stack, zip(*batches, strict=True)))


@pytest.mark.parametrize("num_selected", [1, 4, 5, 22, 23])
@pytest.mark.parametrize("batch_size", [1, 4, 23, 50])
def test_each_selected_example_comes_once_and_padding_weighs_nothing(
    num_selected, batch_size
):
    ids, examples, weights = epoch(num_selected, batch_size)
    # shapes follow the batch size alone; only the number of steps follows the ratio
    assert ids.shape == weights.shape == (-(-num_selected // batch_size), batch_size)
    expected = sorted(selection_of(num_selected).indices[:num_selected].tolist())
    assert sorted(ids.ravel()[:num_selected].tolist()) == expected
    np.testing.assert_array_equal(
        weights.ravel(), np.arange(weights.size) < num_selected
    )
    assert set(ids.ravel().tolist()) == set(expected)  # padding is no other example
    np.testing.assert_array_equal(examples, ids * 10)


def test_an_order_is_its_seed():
    def order(seed):
        return epoch(20, 4, seed)[0].tolist()

    assert order((3, 7)) == order((3, 7))
    assert len({str(order(s)) for s in ((0, 0), (0, 1), (1, 0), (1, 1))}) == 4
    # shuffled: not in the selection's order
    assert np.ravel(order(0)).tolist() != selection_of(20).indices[:20].tolist()


def test_weights_travel_with_their_examples():
    selection = selection_of(9)
    weights = jnp.where(
        jnp.arange(POOL_SIZE) < 9, 1.0 + selection.indices.astype(jnp.float32), 0.0
    )
    selection = selection._replace(weights=weights)
    for ids, _, weights in epoch_batches(POOL, selection, 4, seed=0):
        is_example = np.asarray(weights) > 0
        np.testing.assert_array_equal(weights, np.where(is_example, 1.0 + ids, 0))


@given(
    num_selected=st.integers(1, POOL_SIZE),
    batch_size=st.integers(1, 30),
    start=st.integers(0, 30),
    drop_remainder=st.booleans(),
)
def test_a_resumed_epoch_is_the_rest_of_the_whole_one(
    num_selected, batch_size, start, drop_remainder
):
    def run(pool, start=0):
        return list(
            epoch_batches(
                pool,
                selection_of(num_selected),
                batch_size,
                (3, 1),
                start=start,
                drop_remainder=drop_remainder and batch_size <= num_selected,
            )
        )

    whole = run(POOL)
    start = min(start, len(whole))
    pool = OwnPool(np.arange(POOL_SIZE) * 10)
    rest = run(pool, start)
    assert len(rest) == len(whole) - start
    jax.tree.map(np.testing.assert_array_equal, rest, whole[start:])
    # nothing of what was skipped is read
    assert pool.taken == [batch.ids.tolist() for batch in whole[start:]]


@pytest.mark.parametrize("kind", ["threads", "mesh"])
def test_resuming_with_threads_and_on_a_mesh(kind):
    records = [np.float32(i * 10) for i in range(POOL_SIZE)]
    options: Any = {"sharding": SPLIT} if kind == "mesh" else {}
    pool = SourcePool(records, num_threads=3)
    whole, rest = epoch(23, 8, pool=pool, **options), epoch(23, 8, start=2, **options)
    assert len(rest[0]) == 1
    for one, other in zip(whole, rest, strict=True):
        np.testing.assert_array_equal(one[2:], other)
    assert list(epoch_batches(POOL, selection_of(23), 8, 0, start=3, **options)) == []


@pytest.mark.parametrize(("num_selected", "num_batches"), [(8, 2), (11, 2), (4, 1)])
def test_a_dropped_remainder_leaves_full_batches_of_the_same_order(
    num_selected, num_batches
):
    ids, _, weights = epoch(num_selected, 4, drop_remainder=True)
    assert ids.shape == (num_batches, 4)
    assert weights.min() == 1
    np.testing.assert_array_equal(ids, epoch(num_selected, 4)[0][:num_batches])


@pytest.mark.parametrize("sharding", [None, SPLIT], ids=["host", "mesh"])
def test_a_score_table_takes_the_batches_of_either_kind(sharding):
    selection, table = selection_of(11), ScoreTable.init(POOL_SIZE)
    if sharding is not None:
        table = put(table, replicated(MESH))
    for ids, batch, weights in epoch_batches(
        POOL, selection, 8, seed=0, sharding=sharding
    ):
        table = table.update(ids, jnp.asarray(batch, jnp.float32), weights)
    taught = selection.indices[:11]
    expected = np.full(POOL_SIZE, np.inf)
    expected[taught] = np.asarray(taught) * 10
    np.testing.assert_array_equal(table.losses, expected)


def test_a_split_selection_is_read_whole():
    selection = selection_of(24 - 1)
    padded = Selection(
        jnp.append(selection.indices, 23),
        jnp.append(selection.weights, 0),
        jnp.array(9),
    )
    pool = ArrayPool(np.arange(24))
    split = padded._replace(
        indices=jax.device_put(padded.indices, SPLIT),
        weights=jax.device_put(padded.weights, SPLIT),
    )
    one, other = (list(epoch_batches(pool, s, 4, seed=0)) for s in (padded, split))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_threads_read_as_many_batches_at_once_as_the_pool_says():
    source = CountingSource(POOL_SIZE + 1, num_threads=3)
    everything = uniform()(jax.random.key(0), jnp.zeros(24), 24)
    pool = SourcePool(source, num_threads=3)
    with timeout_is_failure():
        ids = [batch.ids for batch in epoch_batches(pool, everything, 1, seed=0)]
    assert len(ids) == len(source.read) == 24
    assert sorted(source.read) == sorted(np.ravel(ids).tolist())


def test_a_pool_of_ones_own_needs_a_length_and_take_alone():
    pool = OwnPool(np.arange(POOL_SIZE) * 10)
    ids, examples, _ = epoch(20, 8, pool=pool)
    np.testing.assert_array_equal(examples, ids * 10)
    # one batch at a time, when it is asked for
    batches = epoch_batches(pool, selection_of(20), 8, seed=0)
    pool.taken.clear()
    next(batches)
    assert len(pool.taken) == 1
