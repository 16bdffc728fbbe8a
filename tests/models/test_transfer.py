"""Heads on a pre-trained encoder, and loading it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax.models import (
    DepthModel,
    Modality,
    MultiMAE,
    MultiModalClassifier,
    MultiModalEncoder,
    SegmentationModel,
    blank_inputs,
    load_encoder,
    reconstructions,
)
from tests.models.scenes import (
    BATCH,
    MODALITIES,
    MODEL,
    NUM_CLASSES,
    mask_of,
    parameters,
    params_of,
    prepared,
)

ENCODER = MultiModalEncoder(MODALITIES, width=8, num_layers=2, num_heads=2)
RGB = blank_inputs(MODALITIES[:1], 8)


def with_params(model: Any, inputs) -> Any:
    return model, parameters(model, inputs)


@pytest.mark.parametrize("pool", ["mean", "global"])
def test_a_classifier_reads_the_mean_or_the_global_token(pool):
    model, params = with_params(MultiModalClassifier(ENCODER, 4, pool), RGB)
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))

    @jax.jit
    def both(images):
        encoder = {"params": params["params"]["encoder"]}
        encoded: Any = ENCODER.apply(encoder, {"rgb": images})
        return model.apply(params, {"rgb": images}), encoded.tokens

    logits, tokens = map(np.asarray, both(images))
    assert tokens.shape == (2, 5, 8)
    pooled = tokens.mean(axis=1) if pool == "mean" else tokens[:, 0]
    head = params["params"]["head"]
    expected = pooled @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


DENSE = {
    "segmentation": SegmentationModel(
        ENCODER, 6, head_width=4, num_blocks=1, upscale=2, modality="depth"
    ),
    "linear segmentation": SegmentationModel(ENCODER, 6, head_width=4, num_blocks=0),
    "depth": DepthModel(ENCODER, head_width=4, num_taps=2),
}


@pytest.mark.parametrize("name", DENSE)
def test_a_dense_head_predicts_every_pixel_in_its_place(name):
    inputs = {"depth": prepared()["depth"][:2], "rgb": prepared()["rgb"][:2]}
    model, params = with_params(DENSE[name], inputs)
    # each token for itself, or a change would be seen everywhere
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * (0.0 if "MultiHead" in str(path) else 0.2), params
    )
    width, height = 64, 32  # twice as wide as high: rows and columns do not swap
    wide = jax.tree.map(
        lambda maps: jax.image.resize(
            maps, (2, height, width, maps.shape[-1]), "cubic"
        ),
        {"rgb": inputs["rgb"], "depth": jnp.nan_to_num(inputs["depth"])},
    )
    predict = jax.jit(model.apply)
    outputs = predict(params, wide)
    assert outputs.shape[:3] == (2, height, width)
    assert outputs.dtype == jnp.float32
    if name == "depth":
        assert outputs.shape == (2, height, width)
        assert (outputs >= 0).all()
    read = model.modality
    changed = {**wide, read: wide[read].at[0, 24:, 48:].add(2.0)}
    moved = np.abs(predict(params, changed) - outputs).reshape(2, height, width, -1)
    moved = moved.mean(axis=-1)
    np.testing.assert_array_equal(moved[1], np.zeros((height, width)))
    assert moved[0, 26:, 52:].mean() > 4 * moved[0, :12, :24].mean()


def test_heads_name_what_they_cannot_do():
    def shape_of(model, inputs):
        return jax.eval_shape(model.init, jax.random.key(0), inputs)

    depth = blank_inputs(MODALITIES[1:2], 8)
    with pytest.raises(ValueError, match=r"modality='rgb', .* among the inputs"):
        shape_of(SegmentationModel(ENCODER, 3), depth)
    with pytest.raises(ValueError, match=r"num_taps must be in \[1, 2\]"):
        shape_of(DepthModel(ENCODER), RGB)
    with pytest.raises(ValueError, match='pool must be "mean" or "global"'):
        shape_of(MultiModalClassifier(ENCODER, 3, "max"), RGB)  # pyright: ignore[reportArgumentType]


def test_an_encoder_is_loaded_into_a_model_of_fewer_modalities():
    pretrained = params_of(MODEL)
    params: Any = parameters(MultiModalClassifier(MODEL.encoder, 3), RGB)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float16), params)
    loaded = load_encoder(half, pretrained)
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(loaded["params"]["encoder"]):
        old = pretrained["params"]["encoder"]
        for key in path:
            old = old[key.key]
        np.testing.assert_array_equal(leaf, old.astype(jnp.float16))
    np.testing.assert_array_equal(
        loaded["params"]["head"]["kernel"], half["params"]["head"]["kernel"]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 8}, "has shape"),
        ({"num_layers": 3}, "pretrained has no encoder parameter 'Block_2/"),
        ({"num_layers": 1}, "params has no place for the encoder parameter 'Block_1/"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(changes, message):
    model = MultiModalClassifier(MultiMAE.tiny(NUM_CLASSES, **changes).encoder, 3)
    params = jax.eval_shape(model.init, jax.random.key(0), RGB)
    with pytest.raises(ValueError, match=message):
        load_encoder(params, params_of(MODEL))


def test_parameters_without_an_encoder_are_refused():
    with pytest.raises(ValueError, match="pretrained has no encoder"):
        load_encoder(params_of(MODEL), {"params": {"head": jnp.ones(2)}})
    unknown = (Modality.rgb(4), Modality("normals", "standardized_l1", 3, 4))
    model = MultiModalClassifier(MODEL.encoder.clone(modalities=unknown), 3)
    params = jax.eval_shape(model.init, jax.random.key(0), blank_inputs(unknown, 8))
    with pytest.raises(ValueError, match="no encoder parameter 'normals_patches/"):
        load_encoder(params, params_of(MODEL))


def test_reconstructions_show_what_was_seen_and_what_was_made():
    inputs, mask = prepared(), mask_of(5)
    draw = np.random.default_rng(0)
    outputs = {
        m.name: jnp.asarray(draw.normal(size=(BATCH, 4, m.num_outputs)), jnp.float32)
        for m in MODALITIES
    }
    show = jax.jit(lambda *maps: reconstructions(MODALITIES, *maps))
    maps = show(outputs, inputs, mask)
    is_visible = np.asarray(mask.is_visible).reshape(BATCH, 3, 2, 2)
    for number, modality in enumerate(MODALITIES):
        side, made = modality.patch_side, np.asarray(maps[modality.name])
        seen = np.asarray(inputs[modality.name])
        assert made.shape == seen.shape
        for row, i, j in np.ndindex(BATCH, 2, 2):
            place = np.s_[row, i * side : (i + 1) * side, j * side : (j + 1) * side]
            if is_visible[row, number, i, j]:
                np.testing.assert_array_equal(made[place], seen[place])
                continue
            out = np.asarray(outputs[modality.name])[row, 2 * i + j]
            if modality.has_labels:
                expected = out.reshape(side, side, -1).argmax(axis=-1)
            else:
                expected = out.reshape(side, side, -1)
            if modality.name == "rgb":
                expected = expected * seen[place].std() + seen[place].mean()
            np.testing.assert_allclose(made[place], expected, rtol=1e-4, atol=1e-4)
