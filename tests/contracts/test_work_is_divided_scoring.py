"""On a mesh no device scores another's examples."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax import selectors
from attent_jax.data import ArrayPool
from attent_jax.distributed import (
    batch_sharding,
    fsdp_shardings,
    make_mesh,
    put,
    replicated,
)
from attent_jax.scores import gradient_norm, ntk_guided
from attent_jax.training import score_pool
from tests.families import SCORES as OF_FAMILY
from tests.families import apply_fn, loss_fn, squared_error

POOL_SIZE, BATCH_SIZE, NUM_INPUTS, NUM_OUTPUTS = 256, 128, 32, 64
_draw = np.random.default_rng(0)
POOL = ArrayPool(
    {
        "x": _draw.normal(size=(POOL_SIZE, NUM_INPUTS)).astype(np.float32),
        "targets": _draw.normal(size=(POOL_SIZE, NUM_OUTPUTS)).astype(np.float32),
        "reference": _draw.uniform(size=POOL_SIZE).astype(np.float32),
    }
)
PARAMS = {"w": jax.random.normal(jax.random.key(0), (NUM_INPUTS, NUM_OUTPUTS)) / 8}
# Microbatches and chunks that all devices can share.
SCORES = OF_FAMILY | {
    "gradient_norm in microbatches": gradient_norm(loss_fn, microbatch_size=8),
    # every device adds up the chunks' gradients, which is little beside 8 rows of each
    "ntk_guided in chunks": ntk_guided(apply_fn, squared_error, chunk_size=64),
}


def flops_of_scoring(score_fn, params, **options: Any) -> tuple[float, jax.Array]:
    """FLOPs a device of the largest program that a scoring pass compiles."""
    client = jax.devices()[0].client
    before = client.live_executables()

    def new_score_fn(*arguments):  # or an earlier test's program would be used
        return score_fn(*arguments)

    scores = score_pool(new_score_fn, params, POOL, batch_size=BATCH_SIZE, **options)
    known = {id(executable) for executable in before}
    compiled = [one for one in client.live_executables() if id(one) not in known]
    return max(one.cost_analysis().get("flops", 0.0) for one in compiled), scores


def mesh_of(num_devices: int, fsdp: int):
    return make_mesh(fsdp=fsdp, devices=jax.devices()[:num_devices])


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(
    ("num_devices", "fsdp"),
    [
        pytest.param(2, 1, marks=pytest.mark.slow),
        pytest.param(4, 2, marks=pytest.mark.slow),
        (8, 4),
    ],
    ids=["2", "4", "8"],
)
@pytest.mark.parametrize("is_split", [False, True], ids=["replicated", "FSDP"])
def test_a_scoring_pass_is_divided_by_the_mesh(name, num_devices, fsdp, is_split):
    mesh = mesh_of(num_devices, fsdp)
    layout = fsdp_shardings(mesh, PARAMS, min_size=1) if is_split else replicated(mesh)
    whole, expected = flops_of_scoring(SCORES[name], PARAMS)
    part, scores = flops_of_scoring(
        SCORES[name], put(PARAMS, layout), sharding=batch_sharding(mesh)
    )
    # as many as the whole, were every device to score the whole batch
    assert part * num_devices == pytest.approx(whole, rel=0.05)
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_devices", [2, 8])
def test_selectors_take_split_scores_as_they_lie(num_devices):
    mesh = mesh_of(num_devices, fsdp=1)
    split = batch_sharding(mesh)
    _, scores = flops_of_scoring(
        SCORES["loss"], put(PARAMS, replicated(mesh)), sharding=split
    )
    assert {shard.data.shape for shard in scores.addressable_shards} == {
        (POOL_SIZE // num_devices,)
    }
    for make in (selectors.top_k, selectors.gumbel_top_k, selectors.uniform):
        expected = make()(jax.random.key(0), jnp.asarray(np.asarray(scores)), 9)
        for select in (make(mesh=mesh), make()):
            found = select(jax.random.key(0), scores, 9)
            np.testing.assert_array_equal(found.indices, expected.indices)
