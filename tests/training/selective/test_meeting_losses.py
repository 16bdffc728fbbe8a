"""Re-use refuses losses in which rows meet, for all sizes, or is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax import selectors
from attent_jax.training import selective_value_and_grad
from tests.training.selective.meeting_losses import LOSSES, ROWS, SEQ, WIDTH

pytestmark = pytest.mark.usefixtures("standard_promotion")
X = jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, SEQ, WIDTH)), jnp.float32)
IDS = jnp.array([1, 0, 2, 1, 0, 2])
W = jnp.asarray(np.random.default_rng(1).normal(size=(WIDTH, WIDTH)) / 2, jnp.float32)

BY_SIZE_ABOVE_4 = [
    name
    for name in LOSSES
    if name.endswith("few") or "swapped in a" in name  # the same for 1 and 2 rows
]


def loss_of(name):
    function = LOSSES[name]
    return lambda w, rng, batch: function(
        w, rng, batch[0], jnp.tanh(batch[0] @ w), batch[1]
    )


def reused(loss_fn, num_selected):
    return selective_value_and_grad(
        loss_fn, selectors.top_k(), num_selected=num_selected, reuse_forward=True
    )


def trace(name, num_rows, num_selected):
    value_and_grad = reused(loss_of(name), num_selected)
    batch = X[:num_rows], IDS[:num_rows]
    jax.eval_shape(lambda w: value_and_grad(w, None, batch), W)


refused = pytest.raises(ValueError, match="reuse_forward=True needs a loss")


@pytest.mark.parametrize("name", LOSSES)
def test_is_refused(name):
    with refused:
        trace(name, ROWS, 2)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in LOSSES
        if name.startswith(("by place", "custom")) and name not in BY_SIZE_ABOVE_4
    ],
)
def test_is_refused_for_one_row_of_two(name):
    with refused:
        trace(name, 2, 1)


@pytest.mark.parametrize("name", [name for name in LOSSES if "statistics" in name])
@pytest.mark.parametrize(("num_rows", "num_selected"), [(1, 1), (2, 1), (5, 5)])
def test_statistics_of_the_batch_are_refused_for_all_sizes(
    name, num_rows, num_selected
):
    with refused:
        trace(name, num_rows, num_selected)


@pytest.mark.parametrize("name", BY_SIZE_ABOVE_4)
def test_branches_that_are_alike_for_both_sizes_are_exact(name):
    loss_fn, batch = loss_of(name), (X[:3], IDS[:3])

    @jax.jit
    def both(w):
        (_, info), grads = reused(loss_fn, 2)(w, None, batch)
        rows = jax.tree.map(lambda leaf: leaf[info.indices], batch)
        losses = loss_fn(w, None, rows)
        expected = jax.grad(lambda w: jnp.mean(loss_fn(w, None, rows)))(w)
        return info, grads, losses, expected

    info, grads, losses, expected = both(W)
    np.testing.assert_allclose(info.losses, losses, rtol=1e-5)
    np.testing.assert_allclose(grads, expected, rtol=1e-4, atol=1e-6)
