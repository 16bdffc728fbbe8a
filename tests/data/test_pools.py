"""Pools: the same batches from arrays, lists and grain; errors that say where."""

import inspect
import re
import sys
from typing import Any, cast

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax import data, training
from attent_jax.data import ArrayPool, SourcePool, epoch_batches
from attent_jax.selectors import uniform
from attent_jax.teachers import full
from tests.data.sources import CountingSource, OwnPool

POOL_SIZE = 23
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
    "jax arrays": ArrayPool(
        {
            "x": jnp.stack([record["x"] for record in RECORDS]),
            "y": jnp.stack([record["y"] for record in RECORDS]),
        }
    ),
    "list": SourcePool(RECORDS),
    "list, no threads": SourcePool(RECORDS, num_threads=0),
    "list, one thread": SourcePool(RECORDS, num_threads=1),
    "list, collated": SourcePool(
        RECORDS,
        collate_fn=lambda examples: jax.tree.map(lambda *x: np.stack(x), *examples),
    ),
    "grain": SourcePool(cast(Any, grain.MapDataset.source(RECORDS))),
    "grain, transformed": SourcePool(
        cast(Any, grain.MapDataset.range(POOL_SIZE).map(lambda i: RECORDS[i]))
    ),
}
SELECTION = uniform()(jax.random.key(1), jnp.zeros(POOL_SIZE), 10)


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS.keys())
def test_every_pool_gives_the_same_batches(pool):
    assert len(pool) == POOL_SIZE
    batches = list(epoch_batches(pool, SELECTION, 4, seed=5))
    assert len(batches) == 3
    # threads that finish out of order would swap batches
    for ids, batch, _ in batches:
        np.testing.assert_array_equal(
            batch["x"], np.ones((4, 2, 3)) * ids[:, None, None]
        )
        np.testing.assert_array_equal(batch["y"], ids**2)
        assert (batch["x"].dtype, batch["y"].dtype) == (np.float32, np.int32)


def test_a_sources_examples_are_read_once_each_by_python_ids():
    source = CountingSource(POOL_SIZE)
    list(epoch_batches(SourcePool(source, num_threads=0), SELECTION, 5, seed=0))
    assert sorted(source.read) == sorted(SELECTION.indices[:10].tolist())
    assert {type(id_) for id_ in source.read} == {int}  # HDF5 refuses NumPy's


def pad(examples):
    return {
        "x": np.stack([np.pad(e["x"], (0, 9 - len(e["x"]))) for e in examples]),
        "length": np.array([len(e["x"]) for e in examples]),
    }


def test_a_collate_fn_pads_examples_of_different_shapes():
    ragged = [{"x": np.full(length, length)} for length in range(1, 9)]
    batch = data.take(SourcePool(ragged, collate_fn=pad), np.array([7, 0, 2]))
    assert batch["x"].shape == (3, 9)
    assert batch["x"].sum(axis=1).tolist() == [64, 1, 9]
    assert batch["length"].tolist() == [8, 1, 3]


def scored(pool):
    return training.score_pool(
        lambda params, rng, batch: jnp.ones(4), None, pool, batch_size=4
    )


USES = {
    "epoch_batches": lambda pool: epoch_batches(pool, SELECTION, 4, seed=0),
    "score_pool": scored,
    "take": lambda pool: data.take(pool, np.arange(2)),
}
NOT_POOLS = {
    "list": RECORDS,
    "dict": {"x": np.ones(POOL_SIZE)},
    "NumPy array": np.ones(POOL_SIZE),
    "jax array": jnp.ones(POOL_SIZE),
    "grain": grain.MapDataset.source(RECORDS),
    "None": None,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
@pytest.mark.parametrize("pool", NOT_POOLS.values(), ids=NOT_POOLS.keys())
def test_what_is_no_pool_is_refused_with_the_remedy(use, pool):
    with pytest.raises(TypeError, match=r"pool must have .*ArrayPool.*SourcePool"):
        use(pool)


class Endless:
    """As `grain.MapDataset.repeat` makes it."""

    num_threads = 8

    def __init__(self, length=sys.maxsize):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, id_):
        return np.zeros(2)

    def take(self, ids):
        return np.zeros((len(ids), 2))


@pytest.mark.parametrize("length", [sys.maxsize, 2**31, 10**30])
@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_pools_whose_ids_exceed_int32_are_refused(use, length):
    with pytest.raises(ValueError, match=r"has \d+ examples, but ids are int32.*chunk"):
        use(Endless(length))
    with pytest.raises(ValueError, match=r"source has \d+ examples.*chunks"):
        SourcePool(Endless(length))


def test_large_and_endless_sources_are_refused_at_once():
    with pytest.raises(ValueError, match=r"arrays has 2147483648 examples.*chunks"):
        ArrayPool(np.broadcast_to(np.zeros(1, np.int8), 2**31))
    ArrayPool(np.broadcast_to(np.zeros(1, np.int8), 2**31 - 1))
    with pytest.raises(ValueError, match=r"source has \d+ examples.*chunks"):
        SourcePool(grain.MapDataset.source(RECORDS).repeat())


@pytest.mark.parametrize("batch_size", [10**12, 2**31, 2**20 + 1])
def test_batches_beyond_memory_are_refused(batch_size):
    message = f"batch_size must be at most 1048576.*23 examples, got {batch_size}"
    with pytest.raises(ValueError, match=message):
        epoch_batches(POOLS["arrays"], SELECTION, batch_size, seed=0)
    with pytest.raises(ValueError, match=message):
        training.score_pool(
            lambda params, rng, batch: batch["y"],
            None,
            POOLS["arrays"],
            batch_size=batch_size,
        )


def error_of(act) -> str:
    with pytest.raises((TypeError, ValueError)) as caught:
        act()
    message = str(caught.value)
    assert len(message) < 500
    return message


IDS = np.array([4, 1, 2])
LENGTHS = {0: 3, 1: 5, 2: 3, 4: 3}
RAGGED = [{"a": np.ones(2), "b": [np.ones((LENGTHS.get(i, 3), 2))]} for i in range(5)]
CASES = {
    "examples of different shapes": (
        lambda: SourcePool(RAGGED).take(IDS),
        r"example\['b'\]\[0\] has shape \(5, 2\) for id 1 but \(3, 2\) for id 4: "
        r".*collate_fn",
    ),
    "examples of different structures": (
        lambda: SourcePool([{"a": 1}, {"b": 1}]).take(np.array([0, 1])),
        r"example 1 of source has another structure than example 0: .*'b'.*'a'",
    ),
    "examples of very different structures": (
        lambda: SourcePool([np.ones(3), [np.ones(1)] * 10**5]).take(np.array([0, 1])),
        "example 1 of source has another structure than example 0",
    ),
    "a ragged list of arrays": (
        lambda: ArrayPool([np.ones(3 + i % 2) for i in range(20_000)]),
        r"arrays's leaves disagree.*\(arrays\[0\]: 3, arrays\[1\]: 4\)",
    ),
    "a ragged array": (
        lambda: ArrayPool({"x": np.array([np.ones(2), np.ones(3)], dtype=object)}),
        r"arrays\['x'\] is an array of Python objects: pad.*SourcePool",
    ),
    "a batch of fewer rows": (
        lambda: SourcePool(RECORDS, collate_fn=lambda e: e[0]["x"]).take(IDS),
        "collate_fn must return one row per example, but made 2 of 3: stack",
    ),
    "a collate_fn called": (
        lambda: SourcePool(RECORDS, collate_fn=cast(Any, {})),
        "collate_fn must be a function of a list of examples, got dict: pass",
    ),
    "a teacher's state": (
        lambda: epoch_batches(
            POOLS["arrays"], cast(Any, full().init(POOL_SIZE)), 4, seed=0
        ),
        r"selection must be a Selection, got TeacherState: .*state\.selection",
    ),
    "indices alone": (
        lambda: epoch_batches(POOLS["arrays"], cast(Any, np.arange(23)), 4, seed=0),
        "selection must be a Selection, got ndarray: pass what a selector returns",
    ),
    "a traced selection": (
        lambda: jax.jit(
            lambda selection: list(epoch_batches(POOLS["arrays"], selection, 4, 0))
        )(SELECTION),
        r"selection is traced: .*data\.epoch_order",
    ),
    "a seed that draws": (
        lambda: epoch_batches(POOLS["arrays"], SELECTION, 4, cast(Any, None)),
        "seed must be an integer or a sequence of integers, got None.*(seed, epoch)",
    ),
    "a key as seed": (
        lambda: epoch_batches(
            POOLS["arrays"], SELECTION, 4, cast(Any, jax.random.key(0))
        ),
        r"seed must be an integer or a sequence .*, got a jax key: pass e\.g\.",
    ),
    "a seed of booleans": (
        lambda: epoch_batches(POOLS["arrays"], SELECTION, 4, cast(Any, [True, 0])),
        "seed must be an integer, got True",
    ),
    "a dict as source": (
        lambda: SourcePool(cast(Any, {"x": np.ones(3)})),
        r"source must be indexed by ids 0, 1, .*got dict: .*ArrayPool\(arrays\)",
    ),
    "an array of strings": (
        lambda: ArrayPool({"text": np.array(["a", "b"])}),
        r"arrays\['text'\] has dtype <U1, which jax cannot hold: .*token ids",
    ),
    "a batch size of many numbers": (
        lambda: epoch_batches(POOLS["arrays"], SELECTION, cast(Any, [4] * 10**5), 0),
        r"batch_size must be an integer, got \[4, 4.*of type list",
    ),
    "a start past the end": (
        lambda: epoch_batches(POOLS["arrays"], SELECTION, 4, 0, start=4),
        "start must be at most 3, the number of batches, got 4",
    ),
    "no batch left": (
        lambda: epoch_batches(POOLS["arrays"], SELECTION, 11, 0, drop_remainder=True),
        "drop_remainder leaves no batch: 10 examples.*batch_size is 11: lower",
    ),
    "a mesh as sharding": (
        lambda: data.take(POOLS["arrays"], IDS, sharding=cast(Any, jax.devices())),
        r"sharding must be a NamedSharding, got list: .*batch_sharding\(mesh\)",
    ),
    "ids outside": (
        lambda: data.take(POOLS["arrays"], np.array([0, 23])),
        r"ids must lie in \[0, 23\).*got 0 to 23",
    ),
    "negative ids": (
        lambda: data.take(POOLS["arrays"], np.array([-1])),
        r"ids must lie in \[0, 23\).*got -1 to -1",
    ),
    "a mask as ids": (
        lambda: inspect.unwrap(data.take)(POOLS["arrays"], np.ones(23, bool)),
        "ids must be integers of shape .batch., got bool of shape",
    ),
}


@pytest.mark.parametrize(("act", "message"), CASES.values(), ids=CASES.keys())
def test_errors_are_short_and_name_the_remedy(act, message):
    assert re.search(message, error_of(act))


class Broken:
    def __len__(self) -> int:
        return 5

    def __getitem__(self, id_):
        raise OSError("disk")


def refuses(examples):
    raise KeyError("x")


@pytest.mark.parametrize(
    ("pool", "error", "note"),
    [
        (SourcePool(Broken()), OSError, "in SourcePool's source[3]"),
        (
            SourcePool(RECORDS, collate_fn=refuses),
            KeyError,
            "in SourcePool's collate_fn, for ids [3, 1]",
        ),
    ],
)
def test_an_error_of_the_users_code_has_a_note_with_the_ids(pool, error, note):
    with pytest.raises(error) as caught:
        pool.take(np.array([3, 1]))
    assert caught.value.__notes__ == [note]


def test_reprs_are_short_and_have_no_address():
    assert repr(POOLS["arrays"]) == "ArrayPool({'x': float32[23,2,3], 'y': int32[23]})"
    assert repr(POOLS["jax arrays"]) == repr(POOLS["arrays"])
    assert repr(SourcePool(RECORDS)) == "SourcePool(list of 23 examples, num_threads=8)"
    assert len(repr(ArrayPool([np.ones(3)] * 1000))) < 130


def test_a_thread_hands_on_its_error():
    pool = SourcePool(RAGGED, num_threads=2)
    everything = full().init(5).selection
    with pytest.raises(ValueError, match="for id"):
        list(epoch_batches(pool, everything, 5, seed=0))


def test_threads_that_are_no_number_are_refused():
    pool: Any = OwnPool(np.ones(POOL_SIZE))
    pool.num_threads = "8"
    with pytest.raises(TypeError, match=r"pool\.num_threads must be an integer"):
        epoch_batches(pool, SELECTION, 4, seed=0)
