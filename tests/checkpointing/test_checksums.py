"""Checksums against plain Python's, over any shards and dtypes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax.checkpointing import checksum
from tests.checkpointing.saved_runs import assert_same, mesh, placed, restored, saved


def finalizer(word):
    """MurmurHash3's."""
    word = (word ^ (word >> 16)) * 0x85EBCA6B % 2**32
    word = (word ^ (word >> 13)) * 0xC2B2AE35 % 2**32
    return word ^ (word >> 16)


def reference_checksum(words):
    mixed = [(w + 0x9E3779B9 * (i + 1)) % 2**32 for i, w in enumerate(words)]
    return sum(map(finalizer, mixed)) % 2**32


def test_the_record_tells_leaves_and_their_checksums(tmp_path):
    words = np.random.default_rng(0).integers(0, 2**32, (8, 6), np.uint32)
    state = {
        "words": words,
        "split": placed(words, mesh(4, 2), "data", "model"),
        "floats": jnp.asarray(words[0].view(np.float32)),
        "doubles": words.view(np.float64),
        "halves": jnp.asarray(words.view(np.float16)),
        "flags": jnp.asarray(words % 2 == 0),
        "nothing": jnp.zeros((0, 3)),
        "number": -7,
    }
    saved(tmp_path, state, 1)
    record = json.loads((tmp_path / "1/record/metadata").read_text())["record"]
    of = {leaf["path"][2:-2]: leaf for leaf in record["leaves"]}
    whole = reference_checksum(words.ravel().tolist())
    assert {leaf: of[leaf]["checksum"] for leaf in of} == {
        "words": whole,
        "split": whole,
        "floats": reference_checksum(words[0].tolist()),
        "doubles": whole,
        "halves": reference_checksum(words.view(np.uint16).ravel().tolist()),
        "flags": reference_checksum((words % 2 == 0).ravel().tolist()),
        "nothing": 0,
        "number": reference_checksum([2**32 - 7, 2**32 - 1]),
    }
    assert (of["doubles"]["shape"], of["doubles"]["dtype"]) == ([8, 3], "float64")
    with jax.enable_x64(True):  # on a device, the same words
        on_device = {"doubles": jnp.asarray(words.view(np.float64))}
        saved(tmp_path / "64", on_device, 1)
        assert_same(restored(tmp_path / "64", on_device).state, on_device)
    record = json.loads((tmp_path / "64/1/record/metadata").read_text())["record"]
    assert record["leaves"][0]["checksum"] == whole


@pytest.mark.parametrize(
    "change",
    [lambda w: -w, lambda w: w[::-1], lambda w: w[[1, 0, 2, 3, 4, 5]], lambda w: w * 2],
    ids=["signs", "reversed", "swapped", "doubled"],
)
def test_a_change_of_many_entries_changes_the_checksum_of_a_state(change):
    words = np.random.default_rng(0).normal(size=6).astype(np.float32)
    state = {"w": jnp.asarray(words), "key": jax.random.key(0)}
    assert checksum(state) == checksum({"w": words, "key": jax.random.key(0)})
    split = placed(words, mesh(1, 2), "model")
    assert checksum(state) == checksum(state | {"w": split})
    assert checksum(state) != checksum(state | {"w": change(words)})
    assert checksum(state) != checksum(state | {"key": jax.random.key(1)})
