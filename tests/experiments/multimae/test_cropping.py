"""Crops: inside of the picture, of the right distribution, alike for all maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.multimae.cropping import (
    Crop,
    central_crop,
    central_views,
    cut,
    random_crop,
    random_views,
)


def crop_of(top, left, height, width, flip):
    top, left, height, width = (jnp.float32(v) for v in (top, left, height, width))
    return Crop(top, left, height, width, jnp.asarray(flip))


def crops(aspect, count=2000, **options):
    rngs = jax.random.split(jax.random.key(0), count)
    return jax.vmap(lambda rng: random_crop(rng, jnp.float32(aspect), **options))(rngs)


@pytest.mark.parametrize("aspect", [1.0, 1.5, 0.4])
def test_random_crops_have_the_area_and_shape_that_are_asked_for(aspect):
    drawn = crops(aspect)
    for start, extent in ((drawn.top, drawn.height), (drawn.left, drawn.width)):
        assert float(start.min()) >= 0
        assert float((start + extent).max()) <= 1 + 1e-6
    shape = np.asarray(drawn.width / drawn.height) * aspect
    assert 0.75 - 1e-4 < shape.min() < shape.max() < 4 / 3 + 1e-4
    area = np.asarray(drawn.width * drawn.height)
    assert area.min() > 0.2 - 1e-4
    assert abs(np.mean(drawn.is_flipped) - 0.5) < 0.05
    if aspect == 1:  # nearly all draws fit
        small = crops(1.0, area=(0.2, 0.5))
        share = np.asarray(small.width * small.height)
        assert abs(share.mean() - 0.35) < 0.01
        # even in the logarithm
        assert abs(np.log(np.asarray(small.width / small.height)).mean()) < 0.02


def test_what_never_fits_is_the_largest_central_crop():
    crop = random_crop(jax.random.key(0), jnp.float32(6.0), area=(0.9, 1.0))
    assert float(crop.height) == 1
    np.testing.assert_allclose(crop.width * 6, 4 / 3, rtol=1e-6)
    np.testing.assert_allclose(crop.left + crop.width / 2, 0.5, rtol=1e-6)


def test_the_whole_picture_is_itself_and_flips():
    rng = np.random.default_rng(0)
    example = {
        "rgb": jnp.asarray(rng.integers(0, 256, (6, 8, 3)), jnp.uint8),
        "depth": jnp.asarray(rng.random((6, 8)), jnp.float16).at[2, 3].set(jnp.nan),
        "semantics": jnp.asarray(rng.integers(0, 9, (6, 8)), jnp.uint8),
    }
    for flip in (False, True):
        whole = crop_of(0, 0, 1, 1, flip)
        result = cut(example, whole, (6, 8))
        for name, maps in example.items():
            expected = maps[:, ::-1] if flip else maps
            np.testing.assert_array_equal(result[name], expected)
            assert result[name].dtype == maps.dtype


def test_all_maps_show_the_same_part():
    # Rows and columns of a picture are ramps: a crop's values say where it was taken.
    height, width, size = 40, 60, 10
    y, x = np.mgrid[:height, :width].astype(np.float32) + 0.5
    example = {
        "rgb": jnp.asarray(np.stack([y, x, y + x], axis=-1)),
        "depth": jnp.asarray(y),
        "semantics": jnp.asarray(x.astype(np.int32)),
    }
    crop = crop_of(0.25, 0.4, 0.5, 1 / 3, True)
    result = cut(example, crop, (size, size), label_stride=2)
    rows = 10 + (np.arange(size) + 0.5) * 20 / size
    columns = 24 + (np.arange(size)[::-1] + 0.5) * 20 / size
    np.testing.assert_allclose(
        result["rgb"][..., 0], np.broadcast_to(rows[:, None], (size, size)), atol=1e-3
    )
    np.testing.assert_allclose(
        result["rgb"][..., 1], np.broadcast_to(columns[None], (size, size)), atol=1e-3
    )
    # nearest: the pixel in which the centre lies; its own centre is half a pixel on
    np.testing.assert_array_equal(result["depth"][:, 0], np.floor(rows) + 0.5)
    coarse = 24 + (np.arange(5)[::-1] + 0.5) * 20 / 5
    np.testing.assert_array_equal(result["semantics"][0], np.floor(coarse))


def test_shrinking_averages_rgb_and_picks_labels():
    board = np.indices((8, 8)).sum(axis=0) % 2
    example = {
        "rgb": jnp.asarray(np.repeat(255 * board[..., None], 3, axis=2), jnp.uint8),
        "semantics": jnp.asarray(board, jnp.uint8),
    }
    result = cut(example, central_crop(jnp.float32(1.0)), (2, 2))
    np.testing.assert_allclose(result["rgb"], 127.5, atol=8)
    assert set(np.ravel(result["semantics"]).tolist()) <= {0, 1}


def test_central_crops_are_square_in_the_true_picture():
    for aspect in (0.5, 1.0, 1.6):
        crop = central_crop(jnp.float32(aspect), share=0.875)
        np.testing.assert_allclose(crop.width * aspect, crop.height, rtol=1e-6)
        np.testing.assert_allclose(max(crop.width, crop.height), 0.875 * 1.0, rtol=1e-6)
        np.testing.assert_allclose(crop.top + crop.height / 2, 0.5, rtol=1e-6)


def test_views_depend_on_each_examples_own_key_and_keep_the_rest():
    rng = np.random.default_rng(0)
    batch = {
        "rgb": rng.integers(0, 256, (3, 8, 8, 3)).astype(np.uint8),
        "depth": rng.random((3, 8, 8)).astype(np.float32),
        "label": np.arange(3),
        "aspect": np.array([1.0, 1.5, 0.7], np.float32),
    }
    rngs = jax.random.split(jax.random.key(1), 3)
    views = random_views(rngs, batch, (4, 4))
    assert views.keys() == {"rgb", "depth", "label"}
    assert views["rgb"].shape == (3, 4, 4, 3)
    np.testing.assert_array_equal(views["label"], batch["label"])
    last = random_views(rngs[2:], {k: v[2:] for k, v in batch.items()}, (4, 4))
    for name in views:
        np.testing.assert_array_equal(last[name][0], views[name][2])
    other = random_views(jax.random.split(jax.random.key(2), 3), batch, (4, 4))
    assert not np.array_equal(other["depth"], views["depth"])
    first, again = central_views(batch, (4, 4)), central_views(batch, (4, 4))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    with pytest.raises(ValueError, match="must have one of"):
        central_views({"label": np.arange(3)}, (4, 4))
