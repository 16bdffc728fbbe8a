"""Global arrays from what a process holds, and the loops that feed by them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from attent_jax.data import ArrayPool, SourcePool, epoch_batches, take
from attent_jax.distributed import (
    batch_sharding,
    fsdp_shardings,
    local_rows,
    make_mesh,
    put,
    replicated,
)
from attent_jax.scores import loss
from attent_jax.selectors import uniform
from attent_jax.training import score_pool
from tests.compilations import compilations
from tests.distributed.recording_pool import RecordingPool
from tests.families import examples, learner, loss_fn

MESH = make_mesh(fsdp=4)
SPLIT = batch_sharding(MESH)
POOL_SIZE = 41
SCORE = loss(loss_fn)


def test_put_lays_out_every_kind_of_leaf():
    tree = {
        "numpy": np.arange(32.0),
        "jax": jnp.ones((16, 4), jnp.bfloat16),
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(4), 8),
        "int": 3,
        "float": 0.5,
        "bool": np.bool_(True),
        "nothing": None,
    }
    shardings = fsdp_shardings(MESH, tree, min_size=8)
    placed = put(tree, shardings)

    def check(leaf, sharding, value):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
        # the types that jit would give them, and none weak: a step returns the same
        expected = jnp.asarray(value)
        assert (leaf.dtype, jax.typeof(leaf).weak_type) == (expected.dtype, False)
        assert bool(jnp.all(leaf == expected))

    jax.tree.map(check, placed, shardings, tree)
    assert shardings["keys"].spec == PartitionSpec("fsdp")
    assert jax.tree.leaves(put(tree, replicated(MESH)))[0].is_fully_replicated
    # what is on the mesh already may be laid out again
    again = put(put(tree, replicated(MESH)), shardings)
    jax.tree.map(check, again, shardings, tree)


@pytest.mark.parametrize("order", [range(8), [3, 0, 7, 1, 5, 2, 6, 4]])
def test_taken_examples_lie_where_the_sharding_says(order):
    devices = jax.devices()
    mesh = make_mesh(fsdp=2, devices=[devices[i] for i in order])
    arrays, ids = examples(POOL_SIZE), np.arange(16) * 2
    for sharding in (batch_sharding(mesh), NamedSharding(mesh, PartitionSpec("data"))):
        pool = RecordingPool(arrays)
        batch = take(pool, ids, sharding=sharding)
        assert pool.taken == [ids.tolist()]  # each once, on however many devices
        for name, leaf in batch.items():
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
            np.testing.assert_array_equal(leaf, arrays[name][ids])


def test_every_row_is_this_single_processs():
    assert local_rows(SPLIT, 24).tolist() == list(range(24))


def selection():
    return uniform()(jax.random.key(1), jnp.zeros(POOL_SIZE), 19)


@pytest.mark.parametrize("kind", [ArrayPool, SourcePool])
def test_split_epochs_are_the_host_epochs(kind):
    arrays = examples(POOL_SIZE)
    pool = ArrayPool(arrays)
    if kind is SourcePool:
        records = [pool.take(np.array(i)) for i in range(POOL_SIZE)]
        pool = SourcePool(records, num_threads=2)
    host = list(epoch_batches(pool, selection(), 8, seed=5))
    everywhere = put(selection(), replicated(MESH))
    split = list(epoch_batches(pool, everywhere, 8, seed=5, sharding=SPLIT))
    assert len(host) == len(split) == 3
    for one, other in zip(host, split, strict=True):
        assert type(other.ids) is np.ndarray  # for a ScoreTable on the host's side
        for leaf in jax.tree.leaves((other.batch, other.weights)):
            assert leaf.sharding.is_equivalent_to(SPLIT, leaf.ndim)
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "rounded"),
    [(41, 8, 8), (41, 10, 16), (41, 1000, 48), (40, 40, 40), (40, 16, 16), (64, 8, 8)],
)
def test_split_scores_are_the_host_scores(num_examples, batch_size, rounded):
    pool, params = RecordingPool(examples(num_examples)), learner()
    expected = score_pool(SCORE, params, pool, batch_size=batch_size)
    pool.taken.clear()
    params = put(params, replicated(MESH))
    scores = score_pool(SCORE, params, pool, batch_size=batch_size, sharding=SPLIT)
    assert scores.sharding.device_set == set(MESH.devices.flat)
    parts = {shard.data.shape for shard in scores.addressable_shards}
    # a jax array has equal parts or is whole on every device
    assert parts == {(num_examples if num_examples % 8 else num_examples // 8,)}
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert {len(ids) for ids in pool.taken} == {rounded}


def test_a_second_split_scoring_compiles_nothing():
    pool, params = ArrayPool(examples(POOL_SIZE)), put(learner(), replicated(MESH))
    rng = jax.random.key(0)
    score_pool(SCORE, params, pool, batch_size=16, rng=rng, sharding=SPLIT)
    with compilations() as compiled:
        for _ in range(2):
            score_pool(SCORE, params, pool, batch_size=16, rng=rng, sharding=SPLIT)
    assert compiled == []


IDS = np.arange(12)
CASES = {
    "take": lambda: take(ArrayPool(np.arange(POOL_SIZE)), IDS, sharding=SPLIT),
    "local_rows": lambda: local_rows(SPLIT, 12),
    "epoch_batches": lambda: epoch_batches(
        ArrayPool(np.arange(POOL_SIZE)), selection(), 12, seed=0, sharding=SPLIT
    ),
}


@pytest.mark.parametrize("act", CASES.values(), ids=CASES.keys())
def test_batches_that_do_not_divide_are_refused(act):
    message = "batch of 12 examples does not divide over 8 shards: choose.*e.g. 16"
    with pytest.raises(ValueError, match=message):
        act()
