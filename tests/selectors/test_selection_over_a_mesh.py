"""Selection over a mesh is the single device's, and its work is divided."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from attent_jax import distributed, selectors
from attent_jax.typing import Selection

MESH = distributed.make_mesh(fsdp=2)
SPLIT, WHOLE = distributed.batch_sharding(MESH), distributed.replicated(MESH)
PAIRS = {
    "top_k": (selectors.top_k(mesh=MESH), selectors.top_k()),
    "top_k nan_first": (
        selectors.top_k(nan_first=True, mesh=MESH),
        selectors.top_k(nan_first=True),
    ),
    "gumbel_top_k": (
        selectors.gumbel_top_k(0.7, mesh=MESH),
        selectors.gumbel_top_k(0.7),
    ),
    # but for ties, of which there are many, hard selection
    "gumbel_top_k cold": (
        selectors.gumbel_top_k(0.0, mesh=MESH),
        selectors.gumbel_top_k(0.0),
    ),
    "uniform": (selectors.uniform(mesh=MESH), selectors.uniform()),
}
# Few values for many examples: ties, in and across the shards
values = st.lists(
    st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan]),
    min_size=1,
    max_size=12,
)


def assert_identical(one: Selection, other: Selection) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(
    ("name", "size", "sharding"),
    [
        ("top_k", 24, SPLIT),
        ("top_k", 24, WHOLE),
        ("top_k", 41, None),  # does not divide
        ("top_k", 3, None),  # some devices have none
        ("top_k nan_first", 41, None),
        ("gumbel_top_k", 24, SPLIT),
        ("gumbel_top_k", 41, None),
        ("gumbel_top_k cold", 41, None),
        ("uniform", 24, SPLIT),
        ("uniform", 41, None),
    ],
)
@given(values=values, share=st.floats(0, 1), seed=st.integers(0, 2**31 - 1))
def test_selection_is_the_single_devices_bit_for_bit(
    name, size, sharding, values, share, seed
):
    num_selected = max(1, int(share * size))
    scores = jnp.array(np.random.default_rng(seed).choice(values, size), jnp.float32)
    rng = jax.random.key(seed)
    over_mesh, single = PAIRS[name]
    placed = scores if sharding is None else jax.device_put(scores, sharding)
    selection = over_mesh(rng, placed, num_selected)
    assert_identical(selection, single(rng, scores, num_selected))
    for leaf in selection:
        assert leaf.sharding.is_fully_replicated
        assert leaf.sharding.device_set == set(MESH.devices.flat)


@pytest.mark.parametrize("name", ["top_k", "gumbel_top_k cold"])
def test_large_pools_too_whose_pivots_come_from_a_sample(name):
    draw, size = np.random.default_rng(0), 13_001
    over_mesh, single = PAIRS[name]
    for scores in (
        draw.normal(size=size),
        draw.integers(0, 3, size),  # ties in and across the shards
        np.arange(size) // 5000,  # ties over several whole shards
        np.full(size, np.nan),
    ):
        scores = jnp.asarray(scores, jnp.float32)
        for num_selected in (1, 100, 6500, size - 1, size):
            rng = jax.random.key(num_selected)
            assert_identical(
                over_mesh(rng, scores, num_selected), single(rng, scores, num_selected)
            )


def collectives(program: str | None) -> list[tuple[str, int]]:
    """The element type and the bytes of every array that collectives give out."""
    names = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    assert program
    moved = []
    for shapes in re.findall(rf"= (.*?) (?:{names})(?:-start)?\(", program):
        for kind, shape in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shapes):
            width = 1 if kind == "pred" else int(re.sub(r"\D", "", kind)) // 8
            size = np.prod([int(n) for n in shape.split(",") if n], dtype=int)
            moved.append((kind, width * int(size)))
    return moved


@pytest.mark.parametrize(
    ("name", "size", "sharding"),
    [
        ("top_k", 100_000, SPLIT),
        ("gumbel_top_k", 100_000, SPLIT),
        ("gumbel_top_k", 100_001, WHOLE),
        ("gumbel_top_k", 100_004, NamedSharding(MESH, PartitionSpec("data"))),
    ],
)
def test_scores_stay_where_they_are(name, size, sharding):
    scores = jax.ShapeDtypeStruct((size,), jnp.float32, sharding=sharding)
    compiled = jax.jit(PAIRS[name][0]).lower(jax.random.key(0), scores, 5).compile()
    moved = collectives(compiled.as_text())
    padded = size + -size % MESH.size
    assert ("s32", 4 * padded) in moved  # the permutation
    moved.remove(("s32", 4 * padded))
    # then scalars and samples; the scores would be 400 kB
    assert max(num_bytes for _, num_bytes in moved) < 4 * 4300


def test_a_selector_refuses_what_the_single_device_refuses():
    select = selectors.top_k(mesh=MESH)
    with pytest.raises(ValueError, match="num_selected must be at most the pool's 3"):
        select(jax.random.key(0), jnp.ones(3), 4)
    with pytest.raises(ValueError, match=r"temperature must lie in \[0, inf\]"):
        selectors.gumbel_top_k(-1.0, mesh=MESH)
    with pytest.raises(TypeError, match="rng must be a typed key"):
        selectors.gumbel_top_k(mesh=MESH)(jax.random.PRNGKey(0), jnp.ones(3), 1)
