"""Any leaf comes back bitwise, and only into a target of its kind."""

import shutil
from collections import namedtuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attent_jax.checkpointing import CheckpointError
from tests.checkpointing.saved_runs import (
    STATE,
    Pair,
    assert_same,
    checkpointer,
    restored,
    saved,
)

NUMPY = ["bool", "int8", "uint16", "int64", "float16", "float32", "float64"]
NUMPY += ["complex64", "complex128", ml_dtypes.bfloat16]


JAX = ["bool", "int4", "int32", "uint8", "bfloat16", "float16", "float32", "complex64"]
JAX += ["float8_e4m3fn"]


def arrays(dtype):
    """Arrays of any bits (NaN's payloads, −0, subnormals), empty and 0-d ones too."""
    dtype = np.dtype(dtype)
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    if dtype.name in ("bool", "int4"):
        bits = shapes.flatmap(lambda shape: hnp.arrays(np.int8, shape))
        return bits.map(lambda x: (x % 2).astype(dtype))
    bits = shapes.flatmap(lambda s: hnp.arrays(np.uint8, (*s, dtype.itemsize)))
    return bits.map(lambda x: np.asarray(x.view(dtype)[..., 0]))


LEAVES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.complex_numbers(),
    st.sampled_from(NUMPY).flatmap(arrays),
    st.integers(0, 9).map(np.int32) | st.floats().map(np.float64),
    st.sampled_from(JAX).flatmap(lambda name: arrays(jnp.dtype(name))).map(jnp.asarray),
    st.floats(-1, 1).map(lambda x: jnp.full(3, x)),  # weakly typed
    st.builds(
        lambda seed, impl, count: jax.random.split(
            jax.random.key(seed, impl=impl), count
        ),
        st.integers(0, 100),
        st.sampled_from(["threefry2x32", "rbg"]),
        st.integers(1, 3),
    ),
    st.integers(0, 100).map(jax.random.key),
)


TREES = st.recursive(
    LEAVES | st.none(),
    lambda trees: (
        st.dictionaries(st.text(max_size=3), trees, max_size=3)
        | st.lists(trees, max_size=3)
        | st.builds(Pair, trees, trees)
    ),
    max_leaves=8,
)


@settings(max_examples=15)
@given(tree=TREES, position=st.dictionaries(st.text(), st.floats(allow_nan=False)))
def test_any_state_comes_back_bitwise(tmp_path_factory, tree, position):
    folder = tmp_path_factory.mktemp("any")
    with checkpointer(folder, tree) as writer:
        writer.save(3, tree, position)
    found = restored(folder, tree)
    assert (found.step, found.position) == (3, position)
    assert_same(found.state, tree)
    shutil.rmtree(folder)


def test_numpy_comes_back_in_native_byte_order(tmp_path):
    swapped = np.arange(3, dtype=">f4")
    saved(tmp_path, swapped, 1)
    assert_same(restored(tmp_path, swapped).state, np.arange(3, dtype=np.float32))


Riap = namedtuple("Riap", ["second", "first"])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            STATE | {"net": Pair(jnp.zeros((3, 2)), jnp.arange(4))},
            r"state\['net'\].first was saved as float32\[2,3\], .* has float32\[3,2\]",
        ),
        (
            STATE | {"net": Pair(STATE["net"][0], jnp.arange(4.0))},
            r"state\['net'\].second was saved as int32\[4\], .* has float32\[4\]",
        ),
        (STATE | {"ema": 1.0}, r"state\['ema'\] was saved as nothing, .* float\[\]"),
        ({"net": STATE["net"]}, r"state\['rng'\] was saved as float64\[3\], .*nothing"),
        (STATE | {"net": tuple(STATE["net"])}, r"state\['net'\]\[0\] was saved as not"),
        (
            STATE | {"rng": np.ones(3, np.float32)},
            "as float64.* the target has float32",
        ),
        (STATE | {"net": Riap(*STATE["net"][::-1])}, r"in the order .*first.*second"),
        (STATE | {"rng": jax.random.key(0)}, r"the target has key<fry>\[\]"),
    ],
)
def test_refuses_what_does_not_fit(tmp_path, target, message):
    saved(tmp_path, STATE, 1)
    with pytest.raises(CheckpointError, match=message):
        restored(tmp_path, target)
    with (
        checkpointer(tmp_path / "other", target) as writer,
        pytest.raises(ValueError, match=r"but the target has .*: pass the whole state"),
    ):
        writer.save(1, STATE)  # what could not be restored is not saved either
