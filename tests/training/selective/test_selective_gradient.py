"""The gradient of the selected rows, in two passes and in one."""

from functools import cache
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from attent_jax import models, scores, selectors
from attent_jax.training import selective_value_and_grad
from tests.compilations import compilations
from tests.training.learners import (
    LEARNERS,
    NUM_EXAMPLES,
    Learner,
    assert_close,
    decoder,
    scan_over_layers,
    vision_transformer,
)

NUM_SELECTED = 2

both_ways = pytest.mark.parametrize(
    "reuse_forward", [False, True], ids=["two passes", "re-use"]
)


def selective(learner, *, num_selected=NUM_SELECTED, reuse_forward=False):
    value_and_grad = selective_value_and_grad(
        learner.loss_fn,
        selectors.top_k(),
        num_selected=num_selected,
        reuse_forward=reuse_forward,
    )
    return jax.jit(value_and_grad)(learner.params, None, learner.batch)


def of_rows(learner, indices):
    """The oracle: plain gradient of the mean over these rows."""
    rows = jax.tree.map(lambda leaf: leaf[indices], learner.batch)
    return jax.jit(
        jax.value_and_grad(lambda p: jnp.mean(learner.loss_fn(p, None, rows)))
    )(learner.params)


# The oracle's program serves both ways.
@pytest.mark.parametrize("build", LEARNERS.values(), ids=LEARNERS.keys())
def test_equals_the_gradient_of_the_selected_rows_alone(build):
    learner = build()
    losses = jax.jit(learner.loss_fn)(learner.params, None, learner.batch)
    hardest = np.sort(np.argsort(-np.asarray(losses), kind="stable")[:NUM_SELECTED])
    expected = of_rows(learner, hardest)
    for reuse_forward in (False, True):
        (loss, info), grads = selective(learner, reuse_forward=reuse_forward)
        assert set(info.indices.tolist()) == set(hardest.tolist())
        assert_close((loss, grads), expected, 3e-6)
        assert_close(info.scores, losses, 1e-6)
        assert_close(info.losses, losses[info.indices], 1e-6)


@pytest.mark.usefixtures("standard_promotion")
def test_equals_it_to_1e_12_in_float64():
    with jax.enable_x64(True):
        learner = decoder()
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), learner.params)
        learner = learner._replace(params=params)
        (loss, info), grads = selective(learner, reuse_forward=False)
        expected = of_rows(learner, info.indices)
        assert loss.dtype == jnp.float64
        assert_close((loss, grads), expected, 1e-12)
        (loss, again), grads = selective(learner, reuse_forward=True)
        np.testing.assert_array_equal(again.indices, info.indices)
        assert loss.dtype == jnp.float64
        assert_close((loss, grads), expected, 1e-12)


@pytest.mark.usefixtures("standard_promotion")
def test_works_in_bfloat16():
    learner = vision_transformer(dtype=jnp.bfloat16)
    expected_of = cache(lambda rows: of_rows(learner, np.array(rows))[1])
    for reuse_forward in (False, True):
        (_, info), grads = selective(learner, reuse_forward=reuse_forward)
        expected = expected_of(tuple(info.indices.tolist()))
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(grads)}
        assert dtypes == {jnp.dtype(jnp.bfloat16)}
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (grads, expected))
        assert_close(wide[0], wide[1], 0.05)


def test_rows_keep_their_dropout_masks_under_reuse():
    # masks of another draw are off by 0.1 and more
    learner, rng = vision_transformer(dropout_rate=0.5), jax.random.key(7)
    value_and_grad = selective_value_and_grad(
        learner.loss_fn, selectors.top_k(), num_selected=3, reuse_forward=True
    )
    (loss, info), grads = jax.jit(value_and_grad)(learner.params, rng, learner.batch)
    drawn_with = jax.random.split(rng)[0]

    def mean_of_selected(params):
        losses = learner.loss_fn(params, drawn_with, learner.batch)
        return jnp.mean(jnp.asarray(losses)[info.indices])

    expected = jax.jit(jax.value_and_grad(mean_of_selected))(learner.params)
    assert_close((loss, grads), expected, 1e-6)
    other: jax.Array = learner.loss_fn(learner.params, jax.random.key(8), learner.batch)
    assert np.abs(other - info.scores).max() > 0.1


@both_ways
def test_every_ratio_up_to_the_whole_batch(reuse_forward):
    learner = scan_over_layers()
    for num_selected in (1, NUM_EXAMPLES - 1, NUM_EXAMPLES):
        (loss, info), grads = selective(
            learner, num_selected=num_selected, reuse_forward=reuse_forward
        )
        assert len(set(info.indices.tolist())) == num_selected
        assert_close((loss, grads), of_rows(learner, info.indices), 1e-6)


@pytest.mark.parametrize("build", LEARNERS.values(), ids=LEARNERS.keys())
def test_one_row_can_be_selected_from_every_learner(build):
    # traced alone, a row takes other paths: it broadcasts
    learner = build()
    jax.eval_shape(
        selective_value_and_grad(
            learner.loss_fn, selectors.top_k(), num_selected=1, reuse_forward=True
        ),
        learner.params,
        None,
        learner.batch,
    )


@both_ways
def test_params_without_a_gradient_and_forgotten_aux_are_refused(reuse_forward):
    learner = scan_over_layers()
    value_and_grad = selective_value_and_grad(
        learner.loss_fn, selectors.top_k(), num_selected=2, reuse_forward=reuse_forward
    )
    with pytest.raises(TypeError, match="params leaf 'n' is int32, which has no grad"):
        value_and_grad({"n": jnp.arange(3)}, None, learner.batch)
    with_aux = selective_value_and_grad(
        learner.loss_fn,
        selectors.top_k(),
        num_selected=2,
        reuse_forward=reuse_forward,
        has_aux=True,
    )
    with pytest.raises(TypeError, match="returned no tuple but has_aux is True"):
        with_aux(learner.params, None, learner.batch)


@both_ways
def test_scores_of_the_users_own_and_weights_of_the_selectors(reuse_forward):
    learner = scan_over_layers()

    def weighted(rng, scores, num_selected):
        selection = selectors.top_k()(rng, scores, num_selected)
        ranks = jnp.arange(scores.size, dtype=jnp.float32)
        return selection._replace(weights=1 + ranks)

    score = scores.reducible_loss(learner.loss_fn, lambda batch: 9 * batch[1][:, 0])
    value_and_grad = selective_value_and_grad(
        learner.loss_fn,
        weighted,
        num_selected=3,
        score_fn=score,
        reuse_forward=reuse_forward,
    )
    (loss, info), grads = value_and_grad(learner.params, None, learner.batch)
    expected_scores = score(learner.params, None, learner.batch)
    assert_close(info.scores, expected_scores, 1e-6)
    best = np.argsort(-np.asarray(expected_scores))[:3]
    assert set(info.indices.tolist()) == set(best.tolist())
    assert info.weights.tolist() == [1, 2, 3]
    weights = jnp.zeros(NUM_EXAMPLES).at[info.indices].set(jnp.array([1, 2, 3]) / 6)
    expected = jax.value_and_grad(
        lambda p: jnp.sum(weights * learner.loss_fn(p, None, learner.batch))
    )(learner.params)
    assert_close((loss, grads), expected, 1e-6)


@both_ways
def test_aux_comes_back_for_the_selected_rows(reuse_forward):
    learner = scan_over_layers()

    def with_aux(params, rng, batch):
        losses = learner.loss_fn(params, rng, batch)
        return losses, {"name": batch[1][:, 0], "twice": 2 * losses}

    value_and_grad = selective_value_and_grad(
        with_aux,
        selectors.top_k(),
        num_selected=NUM_SELECTED,
        reuse_forward=reuse_forward,
        has_aux=True,
    )
    (_, info), _ = value_and_grad(learner.params, None, learner.batch)
    np.testing.assert_array_equal(info.aux["name"], learner.batch[1][info.indices, 0])
    np.testing.assert_allclose(info.aux["twice"], 2 * info.losses, rtol=1e-6)


@both_ways
def test_randomness_is_the_keys(reuse_forward):
    learner = scan_over_layers()
    value_and_grad = jax.jit(
        selective_value_and_grad(
            learner.loss_fn,
            selectors.uniform(),
            num_selected=NUM_SELECTED,
            reuse_forward=reuse_forward,
        )
    )
    rows = [
        tuple(value_and_grad(learner.params, key, learner.batch)[0][1].indices.tolist())
        for key in jax.random.split(jax.random.key(0), 8)
    ]
    assert len(set(rows)) > 1
    (_, again), _ = value_and_grad(
        learner.params, jax.random.split(jax.random.key(0), 8)[0], learner.batch
    )
    assert tuple(again.indices.tolist()) == rows[0]


@both_ways
def test_compiles_once_and_equals_eager(reuse_forward):
    learner = scan_over_layers()
    value_and_grad = selective_value_and_grad(
        learner.loss_fn,
        selectors.top_k(),
        num_selected=NUM_SELECTED,
        reuse_forward=reuse_forward,
    )
    eager = value_and_grad(learner.params, None, learner.batch)
    jitted = jax.jit(value_and_grad)
    assert_close(jitted(learner.params, None, learner.batch), eager, 1e-6)
    with compilations() as compiled:
        jitted(learner.params, None, jax.tree.map(lambda x: x + 1, learner.batch))
    assert len(compiled) <= 1  # the addition


@pytest.mark.parametrize("ratio", [0.25, 0.5])
@pytest.mark.parametrize("reuse_forward", [False, True])
def test_flops_are_the_cost_models(ratio, reuse_forward):
    learner = decoder_of_real_shape()
    batch_size = learner.batch.shape[0]
    full = flops_of_the_whole_batch()
    value_and_grad = selective_value_and_grad(
        learner.loss_fn,
        selectors.top_k(),
        num_selected=int(ratio * batch_size),
        reuse_forward=reuse_forward,
    )
    share = flops(lambda p: value_and_grad(p, None, learner.batch), learner.params)
    model = (1 + 2 * ratio) / 3 if reuse_forward else (1 + 3 * ratio) / 3
    assert 0.97 * model < share / full < 1.03 * model


def decoder_of_real_shape():
    config = models.DecoderConfig(
        vocabulary_size=128,
        width=128,
        num_layers=2,
        num_heads=4,
        num_kv_heads=4,
        head_width=32,
        mlp_width=344,
        tie_embeddings=True,
    )
    model = models.Decoder(config)
    tokens = jnp.ones((16, 32), jnp.int32)

    def loss_fn(params, rng, batch):
        logits = cast(jax.Array, model.apply(params, batch))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch)
        return jnp.mean(losses, axis=-1)

    params = jax.eval_shape(model.init, jax.random.key(0), tokens)
    return Learner(loss_fn, params, tokens)


@cache
def flops_of_the_whole_batch():
    loss_fn, params, batch = decoder_of_real_shape()
    return flops(
        jax.value_and_grad(lambda p: jnp.mean(loss_fn(p, None, batch))), params
    )


def flops(function, params):
    return (jax.jit(function).lower(params).compile().cost_analysis() or {})["flops"]


def test_too_many_rows_are_refused():
    learner = scan_over_layers()
    with pytest.raises(ValueError, match="num_selected must be at most the batch's 6"):
        selective(learner, num_selected=NUM_EXAMPLES + 1)
    with pytest.raises(ValueError, match="num_selected must be at least 1"):
        selective(learner, num_selected=0)


def test_aux_that_is_not_per_example_is_refused():
    learner = scan_over_layers()
    value_and_grad = selective_value_and_grad(
        lambda p, rng, b: (learner.loss_fn(p, rng, b), jnp.ones(3)),
        selectors.top_k(),
        num_selected=1,
        has_aux=True,
    )
    with pytest.raises(ValueError, match="aux has a leading axis of 3"):
        value_and_grad(learner.params, None, learner.batch)


@both_ways
def test_explicit_mesh_axes_are_refused_with_the_remedy(reuse_forward):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    rows = jax.device_put(jnp.arange(4.0), NamedSharding(mesh, PartitionSpec("data")))
    value_and_grad = selective_value_and_grad(
        lambda w, rng, x: w * x,
        selectors.top_k(),
        num_selected=2,
        num_groups=2,
        reuse_forward=reuse_forward,
    )
    for run in (value_and_grad, jax.jit(value_and_grad)):
        with pytest.raises(ValueError, match=r"explicit mesh axes.*AxisType\.Auto"):
            run(jnp.array(1.0), None, rows)
