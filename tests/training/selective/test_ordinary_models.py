"""Ordinary models are accepted by re-use, and their gradients are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax import selectors
from attent_jax.training import selective_value_and_grad
from tests.training.learners import assert_close
from tests.training.selective.ordinary_models import MODELS

pytestmark = pytest.mark.usefixtures("standard_promotion")
WITH_DRAWS = [name for name in MODELS if "dropout" in name.lower()] + [
    "variational autoencoder",
    "diffusion with a time for each row",
]
VARIANTS = {
    "class token, tiled",
    "class token, repeated",
    "transformer block",
    "dropout",
    "remat with a policy",
    "scan over blocks",
    "encoder and decoder",
    "LSTM",
    "GRU, tokens first",
    "RNN with sequence lengths",
    "NNX attention",
    "NNX dropout",
    "Equinox convolution",
    "Equinox attention",
    "linear systems of each row",
    "two views, labels",
}
"""Made of the same operations as another model: accepted, exact as that one is."""


def reused(loss_fn, num_selected):
    return selective_value_and_grad(
        loss_fn, selectors.top_k(), num_selected=num_selected, reuse_forward=True
    )


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_variant_is_accepted(name):
    loss_fn, params, batch = MODELS[name]()
    rng = jax.random.key(3) if name in WITH_DRAWS else None
    jax.eval_shape(reused(loss_fn, 2), params, rng, batch)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in VARIANTS])
def test_is_accepted_and_equals_the_gradient_of_the_selected_rows(name):
    loss_fn, params, batch = MODELS[name]()
    rng = jax.random.key(3) if name in WITH_DRAWS else None
    num_selected = 1 + list(MODELS).index(name) % 2

    @jax.jit
    def both(params, batch):
        (_, info), grads = reused(loss_fn, num_selected)(params, rng, batch)

        def of_rows(params):
            if rng is None:
                rows = jax.tree.map(lambda leaf: leaf[info.indices], batch)
                return jnp.mean(loss_fn(params, None, rows))
            drawn_with = jax.random.split(rng)[0]
            return jnp.mean(loss_fn(params, drawn_with, batch)[info.indices])

        return grads, jax.grad(of_rows)(params)

    grads, expected = both(params, jax.tree.map(jnp.asarray, batch))
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    assert 0 < largest < np.inf
    grads, expected = jax.tree.map(lambda x: x / largest, (grads, expected))
    assert_close(grads, expected, 1e-5)
