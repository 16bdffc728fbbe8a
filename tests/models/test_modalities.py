"""What a model gets of a batch, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax.models import (
    Modality,
    MultiModalEncoder,
    blank_inputs,
    normalize_patches,
    patchify,
    prepare_inputs,
    standardize_depth,
    unpatchify,
)
from attent_jax.models._multimodal_encoder import sincos_positions
from tests.models.scenes import MODALITIES, scenes

RGB, DEPTH, SEMANTICS = MODALITIES


def test_patches_are_blocks_of_the_map_row_by_row():
    maps = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
    patches = np.asarray(patchify(RGB, jnp.asarray(maps)))
    assert patches.shape == (2, 6, 48)
    # 2 × 3 patches of 4: patch 4 is in the second row, second column
    block = maps[1, 4:8, 4:8]
    np.testing.assert_array_equal(patches[1, 4], block.reshape(-1))
    again = unpatchify(RGB, jnp.asarray(patches), (2, 3))
    np.testing.assert_array_equal(again, maps)


def test_labels_have_patches_at_their_stride():
    labels = jnp.arange(32).reshape(2, 4, 4)
    patches = patchify(SEMANTICS, labels)
    assert patches[0].tolist() == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
        [8, 9, 12, 13],
        [10, 11, 14, 15],
    ]
    joined = unpatchify(SEMANTICS, patches, SEMANTICS.grid(labels))
    np.testing.assert_array_equal(joined[..., 0], labels)


def robustly_standardized(depth):
    """By slices, in float64, of the measurements alone."""
    out = np.full(depth.shape, np.nan)
    for row, values in enumerate(depth.astype(np.float64)):
        ordered = np.sort(values[np.isfinite(values)])
        kept = ordered[int(0.1 * len(ordered)) : int(0.9 * len(ordered))]
        out[row] = (values - kept.mean()) / np.sqrt(kept.var() + 1e-6)
    return out


def test_depth_is_standardized_by_its_middle_values():
    draw = np.random.default_rng(0)
    depth = draw.gamma(2.0, size=(3, 9, 11)).astype(np.float32)
    depth[0, 0, :4] = 1e5  # the mean of all values would be 4,000
    depth[1, 2:5] = np.nan
    expected = robustly_standardized(depth)
    np.testing.assert_allclose(standardize_depth(depth), expected, rtol=1e-4, atol=1e-5)
    # another unit is the same depth
    scaled = standardize_depth(1000 * depth)
    np.testing.assert_allclose(scaled, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_valid", [0, 1, 2])
def test_depth_of_few_measurements_is_finite(num_valid):
    depth = np.full((1, 3, 3), np.nan, np.float32)
    depth[0, 0, :num_valid] = [3.0, 4.0][:num_valid]
    standardized = np.asarray(standardize_depth(depth))
    np.testing.assert_array_equal(np.isfinite(standardized), np.isfinite(depth))


def test_patches_are_normalized_by_their_own_values():
    patches = np.random.default_rng(0).normal(2, 3, (2, 4, 6)).astype(np.float32)
    patches[1, 2, :3] = np.nan
    patches[0, 1] = 7.0  # constant
    wide = patches.astype(np.float64)
    mean = np.nanmean(wide, axis=-1, keepdims=True)
    expected = (wide - mean) / np.sqrt(np.nanvar(wide, axis=-1, keepdims=True) + 1e-6)
    found = normalize_patches(jnp.asarray(patches))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_inputs_are_what_a_model_takes():
    batch = scenes()
    inputs = prepare_inputs(MODALITIES, batch)
    assert {name: maps.shape for name, maps in inputs.items()} == {
        "rgb": (3, 8, 8, 3),
        "depth": (3, 8, 8, 1),
        "semantics": (3, 4, 4),
    }
    np.testing.assert_allclose(
        inputs["rgb"], batch["rgb"].astype(np.float64) / 127.5 - 1, atol=1e-6
    )
    assert inputs["semantics"].dtype == jnp.int32
    assert inputs["semantics"].max() == 255
    floats = {**batch, "rgb": np.ones((3, 8, 8, 3), np.float32)}
    assert prepare_inputs(MODALITIES, floats)["rgb"].min() == 1.0


def test_labels_of_the_images_size_are_thinned_to_their_stride():
    labels = np.arange(3 * 8 * 8).reshape(3, 8, 8)
    inputs = prepare_inputs(MODALITIES, {**scenes(), "semantics": labels})
    np.testing.assert_array_equal(inputs["semantics"], labels[:, 1::2, 1::2])


def test_positions_are_those_of_the_reference_grid():
    positions = sincos_positions((2, 3), 8)
    frequencies = [1.0, 0.01]
    for row in range(2):
        for column in range(3):
            expected = [
                wave(place * f)
                for place in (column, row)
                for wave in (np.sin, np.cos)
                for f in frequencies
            ]
            np.testing.assert_allclose(
                positions[3 * row + column], expected, rtol=1e-6, atol=1e-7
            )
    # a grid twice as fine has the same positions at the middle of each 2 × 2 block
    fine = sincos_positions((4, 4), 8, reference=(2, 2))
    phase = np.arcsin(fine.reshape(4, 4, 8)[0, :, 0])
    np.testing.assert_allclose(phase, [-0.25, 0.25, 0.75, 1.25], atol=1e-6)


def encode(inputs):
    model = MultiModalEncoder(MODALITIES, width=8, num_layers=1, num_heads=2)
    return jax.eval_shape(model.init, jax.random.key(0), inputs)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rgb": None}, KeyError, "has no 'rgb'"),
        ({"rgb": np.zeros((3, 8, 7, 3), np.uint8)}, ValueError, "do not divide into"),
        ({"rgb": np.zeros((3, 8, 8, 4), np.uint8)}, ValueError, "4 channels, not 3"),
        ({"depth": np.zeros((3, 8, 8), np.uint16)}, TypeError, "depth: values must be"),
        ({"semantics": np.zeros((3, 4, 4))}, TypeError, "semantics: labels must be"),
        ({"semantics": np.zeros((3, 2, 2), int)}, ValueError, "of different sizes"),
        ({"semantics": np.zeros((3, 4, 4, 1), int)}, ValueError, "must have 3 axes"),
    ],
)
def test_a_wrong_map_is_named(changes, error, message):
    batch = {k: v for k, v in {**scenes(), **changes}.items() if v is not None}
    with pytest.raises(error, match=message):
        prepare_inputs(MODALITIES, batch)


def test_an_encoder_names_what_it_does_not_know():
    with pytest.raises(ValueError, match="normals"):
        encode({"normals": jnp.zeros((1, 8, 8, 3))})
    with pytest.raises(ValueError, match="at least one"):
        encode({})
    with pytest.raises(ValueError, match="stride=3 does not divide patch_size=4"):
        Modality.semantics(5, patch_size=4, stride=3)
    with pytest.raises(ValueError, match="multiple of 4"):
        MultiModalEncoder(MODALITIES, width=6).init(
            jax.random.key(0), blank_inputs(MODALITIES, 8)
        )
