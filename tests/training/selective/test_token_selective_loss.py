"""Selection of target tokens inside sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax import selectors
from attent_jax.training import selective_value_and_grad, token_selective_loss

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 10)), jnp.float32)
LENGTHS = np.array([10, 7, 1, 0])
MASK = np.arange(10)[None] < LENGTHS[:, None]
REFERENCE = jnp.asarray(np.random.default_rng(1).uniform(size=(4, 10)), jnp.float32)


def token_loss(w, rng, batch):
    return (batch - w) ** 2


def oracle(ratio, reference):
    """Written out in numpy, a sequence at a time."""
    losses = np.asarray(token_loss(0.0, None, X))
    means = []
    for row, length, shift in zip(losses, LENGTHS, reference, strict=True):
        keep = max(1, int(ratio * length))
        order = np.argsort(-(row - np.asarray(shift))[:length], kind="stable")[:keep]
        means.append(row[order].mean() if length else 0.0)
    return means


@pytest.mark.parametrize("ratio", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("with_reference", [False, True])
def test_equals_the_loop_over_sequences(ratio, with_reference):
    reference = REFERENCE if with_reference else jnp.zeros(X.shape)
    loss_fn = token_selective_loss(
        token_loss,
        selectors.top_k(),
        ratio=ratio,
        mask=lambda batch: jnp.asarray(MASK),
        reference=(lambda batch: REFERENCE) if with_reference else None,
    )
    np.testing.assert_allclose(
        jax.jit(loss_fn)(0.0, None, X), oracle(ratio, reference), rtol=1e-6
    )


def test_only_selected_targets_are_learnt_from():
    loss_fn = token_selective_loss(token_loss, selectors.top_k(), ratio=0.3)
    # one w per token, so that each token's gradient shows
    grads = jax.grad(lambda w: jnp.sum(loss_fn(w, None, X)))(jnp.zeros(X.shape))
    assert (np.count_nonzero(grads, axis=1) == 3).all()
    for row, grad in zip(np.asarray(X), np.asarray(grads), strict=True):
        assert set(np.flatnonzero(grad)) == set(np.argsort(-(row**2))[:3])
        np.testing.assert_allclose(grad[grad != 0], -2 * row[grad != 0] / 3, rtol=1e-6)


def test_padding_is_not_read_even_where_it_is_not_finite():
    x = jnp.where(jnp.asarray(MASK), X, jnp.inf)
    loss_fn = token_selective_loss(
        token_loss, selectors.top_k(), ratio=0.5, mask=lambda batch: jnp.asarray(MASK)
    )
    np.testing.assert_allclose(
        loss_fn(0.0, None, x), oracle(0.5, jnp.zeros(X.shape)), rtol=1e-6
    )


def test_random_targets_are_each_sequences_own_draw():
    loss_fn = token_selective_loss(token_loss, selectors.uniform(), ratio=0.2)
    same = jnp.tile(X[:1], (16, 1))
    losses = jax.jit(loss_fn)(0.0, jax.random.key(0), same)
    assert len(set(np.asarray(losses).round(5).tolist())) > 4


def test_is_a_loss_function_like_any_other():
    loss_fn = token_selective_loss(token_loss, selectors.top_k(), ratio=0.5)
    value_and_grad = selective_value_and_grad(
        loss_fn, selectors.top_k(), num_selected=2
    )
    (loss, _), _ = value_and_grad(jnp.array(0.0), None, X)
    np.testing.assert_allclose(
        loss, np.sort(np.asarray(loss_fn(0.0, None, X)))[2:].mean(), rtol=1e-6
    )


def test_bad_shapes_are_refused_by_name():
    with pytest.raises(ValueError, match=r"ratio must lie in \(0, 1\]"):
        token_selective_loss(token_loss, selectors.top_k(), ratio=0)
    reduced = token_selective_loss(
        lambda w, rng, batch: jnp.mean(batch, axis=1), selectors.top_k(), ratio=0.5
    )
    with pytest.raises(ValueError, match=r"token_loss_fn must return shape \[batch"):
        reduced(0.0, None, X)
    narrow = token_selective_loss(
        token_loss, selectors.top_k(), ratio=0.5, mask=lambda batch: batch[:, 1:] > 0
    )
    with pytest.raises(ValueError, match="mask returned shape"):
        narrow(0.0, None, X)
