"""A selection turned into an epoch of batches."""

from typing import Any, cast

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax.data import ArrayPool, SourcePool, epoch_batches, epoch_order
from attent_jax.selectors import uniform
from attent_jax.typing import Selection

POOL_SIZE = 23


def selection_of(num_selected: int) -> Selection:
    return uniform()(jax.random.key(1), jnp.zeros(POOL_SIZE), num_selected)


@pytest.mark.parametrize("num_selected", [1, 4, 5, 22, 23])
@pytest.mark.parametrize("batch_size", [1, 4, 23, 50])
def test_each_selected_example_comes_once_and_padding_weighs_nothing(
    num_selected, batch_size
):
    selection = selection_of(num_selected)
    ids, weights = epoch_order(selection, batch_size, seed=0)
    # shapes follow the batch size alone; only the number of steps follows the ratio
    assert ids.shape == weights.shape == (-(-num_selected // batch_size), batch_size)
    expected = sorted(selection.indices[:num_selected].tolist())
    assert sorted(ids.ravel()[:num_selected].tolist()) == expected
    np.testing.assert_array_equal(
        weights.ravel(), np.arange(weights.size) < num_selected
    )
    assert set(ids.ravel().tolist()) == set(expected)  # padding is no one new


def test_an_order_is_its_seed():
    def order(seed):
        return epoch_order(selection_of(20), 4, seed).ids.tolist()

    assert order((3, 7)) == order((3, 7))
    assert len({str(order(s)) for s in ((0, 0), (0, 1), (1, 0), (1, 1))}) == 4
    # shuffled: not in the selection's order
    assert np.ravel(order(0)).tolist() != selection_of(20).indices[:20].tolist()


def test_weights_travel_with_their_examples():
    selection = selection_of(9)
    weights = jnp.where(jnp.arange(POOL_SIZE) < 9, 1.0 + selection.indices, 0.0)
    order = epoch_order(selection._replace(weights=weights), 4, seed=0)
    flat = order.ids.ravel()[:9], order.weights.ravel()[:9]
    np.testing.assert_array_equal(flat[1], 1.0 + flat[0])
    np.testing.assert_array_equal(order.weights.ravel()[9:], np.zeros(3))


RECORDS = [
    {"x": np.full((2, 3), float(i), np.float32), "y": np.int32(i * i)}
    for i in range(POOL_SIZE)
]
POOLS = {
    "arrays": ArrayPool(
        {
            "x": np.stack([record["x"] for record in RECORDS]),
            "y": np.stack([record["y"] for record in RECORDS]),
        }
    ),
    "list": SourcePool(RECORDS),
    "list, no threads": SourcePool(RECORDS, num_threads=0),
    "list, one thread": SourcePool(RECORDS, num_threads=1),
    "grain": SourcePool(cast(Any, grain.MapDataset.source(RECORDS))),
    "grain, transformed": SourcePool(
        cast(Any, grain.MapDataset.range(POOL_SIZE).map(lambda i: RECORDS[i]))
    ),
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS.keys())
def test_every_pool_gives_the_same_batches(pool):
    assert len(pool) == POOL_SIZE
    selection = selection_of(10)
    order = epoch_order(selection, 4, seed=5)
    batches = list(epoch_batches(pool, selection, 4, seed=5))
    assert len(batches) == 3
    # threads that finish out of order would swap batches
    for (batch, weights), ids, row in zip(batches, *order, strict=True):
        np.testing.assert_array_equal(
            batch["x"], np.ones((4, 2, 3)) * ids[:, None, None]
        )
        np.testing.assert_array_equal(batch["y"], ids**2)
        np.testing.assert_array_equal(weights, row)
        assert (batch["x"].dtype, batch["y"].dtype) == (np.float32, np.int32)


def test_a_sources_examples_are_read_once_each_by_python_ids():
    class Source:
        def __len__(self):
            return POOL_SIZE

        def __getitem__(self, id_):
            assert type(id_) is int  # HDF5 and SQLite refuse numpy's
            read.append(id_)
            return np.float32(id_)

    read: list[int] = []
    pool = SourcePool(Source(), num_threads=0)  # pyright: ignore[reportArgumentType]
    selection = selection_of(8)
    list(epoch_batches(pool, selection, 4, seed=0))
    assert sorted(read) == sorted(selection.indices[:8].tolist())
