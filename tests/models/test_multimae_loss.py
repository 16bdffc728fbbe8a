"""The loss of each example over its masked patches, and training on it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from attent_jax import distributed, selectors, training
from attent_jax.models import (
    MultiMAE,
    MultiModalEncoder,
    blank_inputs,
    multimae_loss,
    prepare_inputs,
    reconstruction_losses,
)
from tests.models.dense_multimae import cut
from tests.models.scenes import (
    BATCH,
    MODALITIES,
    MODEL,
    NUM_CLASSES,
    SIDE,
    mask_of,
    params_of,
    prepared,
    scenes,
)

LOSSES = jax.jit(lambda *args: reconstruction_losses(MODALITIES, *args))
BALANCED: Any = MultiMAE(
    MultiModalEncoder(MODALITIES[1:], width=8, num_layers=1, num_heads=2),
    decoder_width=8,
    decoder_layers=0,
    decoder_heads=2,
    balance_tasks=True,
)
TRAINED: Any = MultiMAE(
    MultiModalEncoder(
        MODALITIES[2:],
        width=8,
        num_layers=1,
        num_heads=2,
        class_width=2,
    ),
    decoder_width=8,
    decoder_layers=0,
    decoder_heads=2,
)
"""Of labels alone, as its gradient takes long to compile."""


def outputs_of(seed=0):
    draw = np.random.default_rng(seed)
    return {
        m.name: jnp.asarray(draw.normal(size=(BATCH, 4, m.num_outputs)), jnp.float32)
        for m in MODALITIES
    }


def loss_by_hand(modality, outputs, maps, is_masked):
    """The mean over masked values of one example, value by value, in float64."""
    errors = []
    patches = cut(modality, maps).astype(np.float64)
    for patch, out, masked in zip(patches, outputs, is_masked, strict=True):
        if not masked:
            continue
        if modality.loss == "normalized_mse":
            patch = (patch - patch.mean()) / np.sqrt(patch.var() + 1e-6)
        if modality.loss == "cross_entropy":
            for label, logits in zip(patch, np.split(out, len(patch)), strict=True):
                if label < modality.num_channels:
                    powers = np.exp(logits)
                    errors.append(-np.log(powers[int(label)] / powers.sum()))
            continue
        for value, found in zip(patch, out, strict=True):
            if np.isfinite(value):
                error = abs(found - value)
                errors.append(error**2 if modality.loss == "normalized_mse" else error)
    return np.mean(errors) if errors else 0.0


def test_losses_are_those_by_hand():
    outputs, inputs, mask = outputs_of(), prepared(), mask_of(5)
    losses, has_loss = LOSSES(outputs, inputs, mask)
    for number, modality in enumerate(MODALITIES):
        expected = [
            loss_by_hand(
                modality,
                np.asarray(outputs[modality.name][row], np.float64),
                np.asarray(inputs[modality.name][row]),
                ~np.asarray(mask.is_visible[row, 4 * number : 4 * number + 4]),
            )
            for row in range(BATCH)
        ]
        expected = np.array(expected)
        np.testing.assert_allclose(losses[modality.name], expected, rtol=1e-5)
        np.testing.assert_array_equal(has_loss[modality.name], expected > 0)


def counted(modality, maps, is_masked):
    """`[patches, outputs]` which outputs of an example the loss may read."""
    patches = cut(modality, maps)
    valid = np.isfinite(patches)
    if modality.has_labels:
        valid = np.repeat(patches < modality.num_channels, modality.num_channels, 1)
    return is_masked[:, None] & valid


def test_gradients_are_zero_where_a_value_is_visible_or_missing():
    outputs, inputs, mask = outputs_of(), prepared(), mask_of(5)

    @jax.jit
    @jax.grad
    def gradient(outputs):
        losses, _ = reconstruction_losses(MODALITIES, outputs, inputs, mask)
        return sum(jnp.sum(loss) for loss in losses.values())

    found = gradient(outputs)
    for number, modality in enumerate(MODALITIES):
        name = modality.name
        expected = [
            counted(
                modality,
                np.asarray(inputs[name][row]),
                ~np.asarray(mask.is_visible[row, 4 * number : 4 * number + 4]),
            )
            for row in range(BATCH)
        ]
        np.testing.assert_array_equal(np.asarray(found[name]) != 0, expected)


def test_losses_do_not_read_visible_targets():
    outputs, inputs, mask = outputs_of(), prepared(), mask_of(5)
    is_visible = np.asarray(mask.is_visible)
    changed = {}
    for number, modality in enumerate(MODALITIES):
        maps, side = inputs[modality.name], modality.patch_side
        grid = is_visible[:, 4 * number : 4 * number + 4].reshape(BATCH, 2, 2)
        shown = np.kron(grid, np.ones((1, side, side), bool))
        shown = shown if modality.has_labels else shown[..., None]
        changed[modality.name] = jnp.where(shown, 3, maps)
    before, after = LOSSES(outputs, inputs, mask), LOSSES(outputs, changed, mask)
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_an_example_without_a_masked_value_has_no_loss():
    inputs = {**prepared(), "depth": jnp.full((BATCH, SIDE, SIDE, 1), jnp.nan)}
    losses, has_loss = LOSSES(outputs_of(), inputs, mask_of(5))
    np.testing.assert_array_equal(losses["depth"], np.zeros(BATCH))
    assert not has_loss["depth"].any()


BALANCED_LOSS = multimae_loss(BALANCED, num_visible=2, has_aux=True)
COMPILED = jax.jit(BALANCED_LOSS)


def test_tasks_are_balanced_by_their_uncertainty():
    params, batch = params_of(BALANCED), scenes()
    batch["depth"][2] = np.nan  # no loss: its log-variance does not count
    log_variances = jnp.array([0.5, -1.0])
    params = {"params": {**params["params"], "log_variances": log_variances}}
    total, losses = COMPILED(params, None, batch)
    depth, semantics = (np.asarray(losses[name]) for name in ("depth", "semantics"))
    expected = np.exp(-0.5) * depth + 0.5 + np.exp(1.0) * semantics - 1.0
    expected[2] = np.exp(1.0) * semantics[2] - 1.0
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_an_examples_loss_depends_on_it_alone():
    params, batch = params_of(BALANCED), scenes()
    total, _ = COMPILED(params, None, batch)
    assert total.shape == (BATCH,)
    np.testing.assert_array_equal(total, COMPILED(params, None, batch)[0])
    turned = jax.tree.map(lambda leaf: leaf[::-1], batch)
    np.testing.assert_allclose(
        COMPILED(params, None, turned)[0][::-1], total, rtol=1e-5
    )
    of_one = jax.vmap(
        lambda example: BALANCED_LOSS(
            params, None, jax.tree.map(lambda leaf: leaf[None], example)
        )[0][0]
    )
    np.testing.assert_allclose(
        jax.jit(of_one)(jax.tree.map(jnp.asarray, batch)), total, rtol=1e-5
    )


class Blind(MultiMAE):
    """Reconstructs zeros: its loss depends on the mask and the batch alone."""

    def __call__(self, inputs, mask=None, *, train=False):
        assert mask is not None
        SEEN.append(mask.visible.shape)
        return {
            m.name: jnp.zeros((len(mask.places), 4, m.num_outputs))
            for m in self.encoder.modalities
        }


SEEN = []
BLIND: Any = Blind(MODEL.encoder)


def test_masks_follow_the_key_the_seed_and_the_id():
    batch = scenes()
    loss_fn = jax.jit(multimae_loss(BLIND, num_visible=4, has_aux=True))
    other_seed = jax.jit(multimae_loss(BLIND, num_visible=4, mask_seed=1))
    fixed, losses = loss_fn({}, None, batch)
    assert set(losses) == {"rgb", "depth", "semantics"}
    np.testing.assert_allclose(fixed, sum(losses.values()), rtol=1e-6)
    others = [
        loss_fn({}, None, {**batch, "id": batch["id"] + 1})[0],
        loss_fn({}, jax.random.key(1), batch)[0],
        other_seed({}, None, batch),
    ]
    for other in others:
        assert (np.abs(np.asarray(other) - np.asarray(fixed)) > 1e-4).all()


def test_a_sixth_is_visible_unless_asked():
    SEEN.clear()
    for num_visible in (None, 7):
        loss_fn = multimae_loss(BLIND, num_visible=num_visible)
        jax.eval_shape(loss_fn, {}, None, scenes())
    assert SEEN == [(BATCH, 2), (BATCH, 7)]


def test_rows_are_proven_to_stay_apart():
    # refused while it is traced, if they met
    jax.eval_shape(
        training.selective_value_and_grad(
            multimae_loss(TRAINED, num_visible=2),
            selectors.top_k(),
            num_selected=1,
            reuse_forward=True,
        ),
        params_of(TRAINED),
        jax.random.key(2),
        jax.tree.map(jnp.asarray, scenes(4)),
    )


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_one_forward_pass_serves_selection_and_gradient(remat):
    model = TRAINED.clone(encoder=TRAINED.encoder.clone(remat=remat))
    loss_fn = multimae_loss(model, num_visible=2)
    value_and_grad = training.selective_value_and_grad(
        loss_fn, selectors.top_k(), num_selected=1, reuse_forward=True
    )
    batch = jax.tree.map(jnp.asarray, scenes(4))
    rng = jax.random.key(2)

    @jax.jit
    def both(params):
        (_, info), grads = value_and_grad(params, rng, batch)
        drawn_with = jax.random.split(rng)[0]
        expected = jax.grad(
            lambda params: loss_fn(params, drawn_with, batch)[info.indices].mean()
        )(params)
        return grads, expected

    grads, expected = both(params_of(TRAINED))
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    assert largest > 0
    for one, other in zip(*map(jax.tree.leaves, (grads, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.slow
def test_the_rows_of_a_full_model_stay_apart():
    model: Any = MultiMAE.tiny(NUM_CLASSES, drop_path_rate=0.1, remat=True)
    step = training.make_selective_train_step(
        multimae_loss(model, num_visible=4),
        optax.sgd(0.1),
        selectors.top_k(),
        num_selected=2,
        reuse_forward=True,
    )
    state = training.init_train_state(params_of(model), optax.sgd(0.1))
    # refused while it is traced, if they met
    batch = jax.tree.map(jnp.asarray, scenes())
    jax.eval_shape(step, state, jax.random.key(0), batch, jnp.ones(BATCH))


@pytest.mark.slow
def test_training_on_eight_devices_is_training_on_one():
    batch = jax.tree.map(jnp.asarray, scenes(8))
    weights = jnp.ones(8)
    optimizer = optax.sgd(0.1)
    step = training.make_train_step(multimae_loss(TRAINED, num_visible=2), optimizer)
    state = training.init_train_state(params_of(TRAINED), optimizer)
    alone, info = step(state, jax.random.key(0), batch, weights)
    mesh = distributed.make_mesh(fsdp=8)
    shardings = distributed.fsdp_shardings(mesh, state, min_size=64)
    assert any(not s.is_fully_replicated for s in jax.tree.leaves(shardings))
    split = distributed.batch_sharding(mesh)
    together, info_of_all = step(
        distributed.put(state, shardings),
        jax.random.key(0),
        jax.device_put(batch, split),
        jax.device_put(weights, split),
    )
    np.testing.assert_allclose(info.losses, info_of_all.losses, rtol=1e-5)
    for one, other, before in zip(
        *(jax.tree.leaves(s.params) for s in (alone, together, state)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        assert not np.array_equal(one, before) or one.size <= 8


def test_what_a_batch_lacks_is_named():
    batch = scenes()
    del batch["id"]
    loss_fn = multimae_loss(MODEL)
    with pytest.raises(KeyError, match="has no 'id'"):
        loss_fn(params_of(MODEL), None, batch)
    with pytest.raises(TypeError, match="typed key"):
        loss_fn(params_of(MODEL), 0, scenes())
    with pytest.raises(ValueError, match="num_visible"):
        multimae_loss(MODEL, num_visible=0)


def test_inputs_of_a_batch_initialize_a_model():
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), prepared())
    blank = jax.eval_shape(MODEL.init, jax.random.key(0), blank_inputs(MODALITIES, 8))
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, blank)
    assert list(prepare_inputs(MODALITIES[:1], scenes())) == ["rgb"]
