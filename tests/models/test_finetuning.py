"""Rates by layer, mixed examples, the reverse Huber loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from attent_jax.models import berhu, cutmix, layer_decay, mixup, scale_by_path
from attent_jax.training import init_train_state, make_train_step
from tests.models.scenes import MODEL, params_of


def test_earlier_layers_learn_slower():
    scale = layer_decay(2, 0.5)
    scales = jax.tree_util.tree_map_with_path(
        lambda path, _: scale(jax.tree_util.keystr(path, simple=True, separator="/")),
        params_of(MODEL)["params"],
    )
    encoder = scales.pop("encoder")
    assert set(jax.tree.leaves(scales)) == {1.0}  # the decoders
    expected = {"Block_0": 0.25, "Block_1": 0.5, "LayerNorm_0": 1.0}
    for name, own in encoder.items():
        assert set(jax.tree.leaves(own)) == {expected.get(name, 0.125)}, name
    with pytest.raises(ValueError, match="decay"):
        layer_decay(2, 1.5)


def test_updates_are_scaled_by_path_and_frozen_ones_are_left_out():
    params = {"encoder": {"Block_0": {"w": jnp.ones(2)}}, "head": jnp.ones(2)}
    optimizer = optax.chain(optax.sgd(1.0), scale_by_path(layer_decay(1, 0.1)))

    def loss_fn(params, rng, batch):
        total = params["encoder"]["Block_0"]["w"].sum() + params["head"].sum()
        return total * batch

    for trainable in (True, lambda path: path != "head"):
        step = make_train_step(loss_fn, optimizer, trainable=trainable)
        state = init_train_state(params, optimizer, trainable=trainable)
        state, _ = step(state, None, jnp.ones(2), jnp.ones(2))
        np.testing.assert_allclose(state.params["encoder"]["Block_0"]["w"], 0.9)
        np.testing.assert_allclose(
            state.params["head"], 0.0 if trainable is True else 1
        )


IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(40, 8, 6, 2)), jnp.float32)
TARGETS = jnp.eye(40)  # so that targets tell who was mixed, and how much


def partner_and_share(targets):
    """Of each row: its own share, and who has the rest."""
    targets = np.asarray(targets)
    own = np.diagonal(targets).copy()
    others = targets - np.diag(own)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-5)
    assert ((others > 1e-6).sum(axis=1) <= 1).all()
    partners = np.where(others.max(axis=1) > 1e-6, others.argmax(axis=1), np.arange(40))
    return partners, own


def test_mixup_blends_images_as_targets():
    images, targets = jax.jit(mixup)(jax.random.key(0), IMAGES, TARGETS)
    partners, own = partner_and_share(targets)
    assert len(set(np.round(own, 3))) > 20  # each its own share
    own = own[:, None, None, None]
    expected = own * IMAGES + (1 - own) * IMAGES[partners]
    np.testing.assert_allclose(images, expected, rtol=1e-4, atol=1e-5)


def test_cutmix_pastes_a_box_and_counts_its_pixels():
    images, targets = jax.jit(cutmix)(jax.random.key(0), IMAGES, TARGETS)
    partners, own = partner_and_share(targets)
    is_own = (np.asarray(images) == IMAGES).all(axis=-1)
    is_pasted = (np.asarray(images) == np.asarray(IMAGES)[partners]).all(axis=-1)
    assert (is_own | is_pasted).all()
    mixed = partners != np.arange(40)
    assert mixed.sum() > 20
    np.testing.assert_allclose(is_own[mixed].mean(axis=(1, 2)), own[mixed], rtol=1e-5)
    for pasted in ~is_own[mixed]:  # a box
        rows, columns = pasted.any(axis=1), pasted.any(axis=0)
        np.testing.assert_array_equal(pasted, np.outer(rows, columns))
        assert (np.abs(np.diff(rows.astype(int))).sum()) <= 2


def test_the_area_of_a_box_is_that_of_the_distribution():
    shown = []
    for seed in range(20):
        _, targets = jax.jit(cutmix)(jax.random.key(seed), IMAGES, TARGETS)
        partners, own = partner_and_share(targets)
        shown.append(own[partners != np.arange(40)])
    # λ uniform, and boxes cut at the border: E[area seen] = 1 − E[(1 − s/4)² s²],
    # s² = 1 − λ, which is 1 − (1/2 − 1/2 · 2/5 + 1/16 · 1/3)
    np.testing.assert_allclose(np.concatenate(shown).mean(), 0.679, atol=0.03)


def test_berhu_is_that_by_hand():
    draw = np.random.default_rng(0)
    predictions, targets = draw.normal(size=(2, 3, 4, 5)).astype(np.float32)
    targets[1, 0] = np.nan

    @jax.jit
    def losses_and_gradient(predictions, targets):
        gradient = jax.grad(lambda p: berhu(p, targets).sum())(predictions)
        return berhu(predictions, targets), gradient

    found, gradient = losses_and_gradient(predictions, targets)
    for row in range(3):
        errors = np.abs(predictions[row] - targets[row]).ravel().astype(np.float64)
        errors = errors[np.isfinite(errors)]
        c = errors.max() / 5
        expected = [e if e <= c else (e * e + c * c) / (2 * c) for e in errors]
        np.testing.assert_allclose(found[row], np.mean(expected), rtol=1e-5)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[1, 0], np.zeros(5))
    same, gradient = losses_and_gradient(predictions, predictions)
    np.testing.assert_array_equal(same, np.zeros(3))
    assert np.isfinite(gradient).all()
