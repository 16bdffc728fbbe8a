"""MultiMAE: what the encoder and the decoders see, against dense float64 NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax.models import MultiMAE, TokenMask, blank_inputs
from attent_jax.models._blocks import Block, make_blocks
from tests.models import dense_multimae
from tests.models.scenes import (
    BATCH,
    MODALITIES,
    MODEL,
    NUM_CLASSES,
    SIDE,
    mask_of,
    params_of,
    prepared,
)

NUM_VISIBLE = 5
APPLY = jax.jit(MODEL.apply)


@jax.jit
def encode(params, inputs, mask):
    return MODEL.encoder.apply({"params": params["params"]["encoder"]}, inputs, mask)


def tokens_of_pixels(name):
    """`[pixels of a map]` the token that each belongs to."""
    (modality,) = (m for m in MODALITIES if m.name == name)
    side = SIDE // modality.stride
    grid = np.arange(4).reshape(2, 2)
    first = 4 * [m.name for m in MODALITIES].index(name)
    return first + np.kron(grid, np.ones((side // 2, side // 2), int))


def masked_pixels(name):
    """`[batch, height, width]` which pixels no visible token holds."""
    return ~np.asarray(mask_of(NUM_VISIBLE).is_visible)[:, tokens_of_pixels(name)]


def wide(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def test_the_sparse_model_is_the_dense_one_with_a_mask():
    params, inputs, mask = params_of(MODEL), prepared(), mask_of(NUM_VISIBLE)
    encoded = encode(params, inputs, mask)
    outputs = APPLY(params, inputs, mask)
    oracle = wide(params["params"])
    grids = {m.name: m.grid(inputs[m.name]) for m in MODALITIES}
    for row in range(BATCH):
        own = {name: np.asarray(maps[row]) for name, maps in inputs.items()}
        is_visible = np.asarray(mask.is_visible[row])
        expected = dense_multimae.encode(
            oracle["encoder"], MODEL.encoder, own, is_visible
        )
        visible = np.asarray(mask.visible[row])
        np.testing.assert_allclose(
            encoded.tokens[row],
            expected[np.concatenate([[0], 1 + visible])],
            rtol=1e-3,
            atol=1e-4,
        )
        for modality in MODALITIES:
            reconstructed = dense_multimae.decode(
                oracle[f"{modality.name}_decoder"],
                MODEL,
                modality,
                expected,
                grids,
                is_visible,
            )
            np.testing.assert_allclose(
                outputs[modality.name][row], reconstructed, rtol=1e-3, atol=1e-3
            )


def test_masked_values_do_not_reach_any_output():
    params, inputs, mask = params_of(MODEL), prepared(), mask_of(NUM_VISIBLE)
    changed = {}
    for name, maps in inputs.items():
        hidden = masked_pixels(name).reshape(BATCH, *maps.shape[1:3])
        hidden = hidden[..., None] if maps.ndim == 4 else hidden
        other = (maps + 1) % NUM_CLASSES if name == "semantics" else jnp.nan
        changed[name] = jnp.where(hidden, other, maps)
    before, after = APPLY(params, inputs, mask), APPLY(params, changed, mask)
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_gradients_reach_the_visible_pixels_alone():
    params, inputs, mask = params_of(MODEL), prepared(), mask_of(NUM_VISIBLE)
    values = {name: inputs[name] for name in ("rgb", "depth")}
    values["depth"] = jnp.nan_to_num(values["depth"])
    weights = jax.random.normal(jax.random.key(3), (BATCH, 1 + NUM_VISIBLE, 16))

    @jax.jit
    @jax.grad
    def gradient(values):
        encoded = encode(params, {**inputs, **values}, mask)
        return jnp.sum(encoded.tokens * weights)

    seen = 0
    for name, found in gradient(values).items():
        is_zero = (np.asarray(found) == 0).all(axis=-1)
        np.testing.assert_array_equal(is_zero, masked_pixels(name))
        seen += (~is_zero).sum()
    assert seen > 0


def test_every_decoder_sees_the_visible_tokens_of_all_modalities():
    params, inputs, mask = params_of(MODEL), prepared(), mask_of(NUM_VISIBLE)
    shown = np.asarray(mask.is_visible)[:, 4:8].any(axis=1)  # some depth
    assert shown.any()
    changed = {**inputs, "depth": inputs["depth"] + 1}
    before, after = APPLY(params, inputs, mask), APPLY(params, changed, mask)
    for name in before:
        moved = np.abs(before[name] - after[name]).max(axis=(1, 2)) > 1e-5
        np.testing.assert_array_equal(moved, shown)


def test_the_order_of_the_visible_tokens_does_not_matter():
    params, inputs, mask = params_of(MODEL), prepared(), mask_of(NUM_VISIBLE)
    visible = np.asarray(mask.visible)[:, ::-1]
    places = np.asarray(mask.places)
    places = np.where(places < NUM_VISIBLE, NUM_VISIBLE - 1 - places, places)
    turned = TokenMask(jnp.asarray(visible), jnp.asarray(places))
    before, after = APPLY(params, inputs, mask), APPLY(params, inputs, turned)
    for name in before:
        np.testing.assert_allclose(before[name], after[name], rtol=1e-4, atol=1e-4)


def test_a_mask_for_other_inputs_is_refused():
    with pytest.raises(ValueError, match=r"mask is of \(3, 12\)"):
        jax.eval_shape(
            MODEL.apply, params_of(MODEL), blank_inputs(MODALITIES, 8), mask_of(5)
        )


def sizes(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes_of(model, side):
    inputs = blank_inputs(model.encoder.modalities, side)
    return jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]


def test_presets_have_the_sizes_of_the_papers_model():
    shapes = shapes_of(MultiMAE.vit_b(), 224)
    # ViT-B: 12 · (12 · 768² + 13 · 768) + a final norm
    blocks = {k: v for k, v in shapes["encoder"].items() if k.startswith("Block")}
    assert sizes(blocks) == 12 * (12 * 768**2 + 13 * 768)
    assert shapes["encoder"]["rgb_patches"]["kernel"].shape == (768, 768)
    assert shapes["encoder"]["depth_patches"]["kernel"].shape == (256, 768)
    # 4 × 4 labels of 64 dimensions
    assert shapes["encoder"]["semantics_patches"]["kernel"].shape == (1024, 768)
    assert shapes["rgb_decoder"]["outputs"]["kernel"].shape == (256, 768)
    assert shapes["semantics_decoder"]["outputs"]["kernel"].shape == (256, 16 * 133)
    assert MultiMAE.vit_b().encoder.num_tokens(
        blank_inputs(MultiMAE.vit_b().encoder.modalities, 224)
    ) == {"rgb": 196, "depth": 196, "semantics": 196}
    small = MultiMAE.small(12, remat=True, balance_tasks=True)
    assert small.encoder.remat
    assert small.balance_tasks
    assert small.encoder.num_tokens(blank_inputs(small.encoder.modalities, 32)) == {
        "rgb": 16,
        "depth": 16,
        "semantics": 16,
    }
    assert MultiMAE.vit_s(12, width=192).encoder.width == 192


def products(jaxpr):
    """Result types of all matrix products in a program."""
    found = set()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            found.add(eqn.outvars[0].aval.dtype)
        for value in jax.tree.leaves(
            eqn.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found |= products(inner)
    return found


@pytest.mark.parametrize("remat", [False, True])
def test_all_matrix_products_are_of_the_asked_type(remat):
    model = MultiMAE.tiny(NUM_CLASSES, dtype=jnp.bfloat16, remat=remat)
    with jax.numpy_dtype_promotion("standard"):  # flax mixes types
        program = jax.make_jaxpr(model.apply)(
            params_of(MODEL), prepared(), mask_of(NUM_VISIBLE)
        )
    assert products(program.jaxpr) == {jnp.dtype(jnp.bfloat16)}
    assert ("remat" in str(program)) == remat
    assert {v.aval.dtype for v in program.jaxpr.outvars} == {jnp.dtype(jnp.float32)}


def test_drop_path_skips_branches_of_whole_examples():
    block: Any = Block(2, drop_path_rate=0.5)
    x = jax.random.normal(jax.random.key(0), (64, 3, 4))
    variables = block.init(jax.random.key(1), x, None, True)

    @jax.jit
    def branches(rng):
        return block.apply(variables, x, None, False, rngs={"dropout": rng}) - x

    moved = np.abs(branches(jax.random.key(2))).max(axis=2) > 1e-6
    assert (moved.all(axis=1) | ~moved.any(axis=1)).all()
    # both branches are skipped by a quarter of the examples
    assert 4 < (~moved.any(axis=1)).sum() < 30
    blocks: Any = make_blocks(3, drop_path_rate=0.3, num_heads=1)
    rates = [block.drop_path_rate for block in blocks]
    np.testing.assert_allclose(rates, [0, 0.15, 0.3])
