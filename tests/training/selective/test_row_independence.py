"""Re-use accepts operations that keep rows apart, and is exact; what it reports."""

from typing import Any

import flax.linen as nn
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from attent_jax import selectors
from attent_jax.training import selective_value_and_grad

ROWS, SEQ, WIDTH = 6, 3, 4
X = jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, SEQ, WIDTH)), jnp.float32)
W = jnp.asarray(np.random.default_rng(1).normal(size=(WIDTH, WIDTH)) / 2, jnp.float32)
IDS = jnp.array([2, 0, 1, 1, 0, 2])


def reused(loss_fn, params: Any = W, batch: Any = (X, IDS), rng=None):
    value_and_grad = selective_value_and_grad(
        loss_fn, selectors.top_k(), num_selected=2, reuse_forward=True
    )
    value_and_grad = jax.jit(value_and_grad)
    return value_and_grad(params, rng, batch)


def assert_exact(loss_fn, params=W, batch=(X, IDS)):
    (_, info), grads = reused(loss_fn, params, batch)
    rows = jax.tree.map(lambda leaf: leaf[info.indices], batch)
    grad = jax.grad(lambda p: jnp.mean(loss_fn(p, None, rows)))
    expected = jax.jit(grad)(params)
    scale = 1e-6 * max(1, float(jnp.max(jnp.abs(expected))))
    np.testing.assert_allclose(grads, expected, rtol=1e-5, atol=scale)


def hidden(w, batch):
    return jnp.tanh(batch[0] @ w)


ACCEPTED = {
    "sums": lambda w, h, ids: jnp.sum(h, (1, 2)),
    "softmax": lambda w, h, ids: -jax.nn.log_softmax(h[:, 0])[..., 1],
    "rows last": lambda w, h, ids: jnp.sum(jnp.moveaxis(h, 0, -1) ** 2, (0, 1)),
    "rows and tokens on one axis": lambda w, h, ids: jnp.sum(
        (h.reshape(-1, WIDTH) @ w).reshape(-1, SEQ * WIDTH) ** 2, -1
    ),
    "attention": lambda w, h, ids: jnp.sum(
        jax.nn.softmax(jnp.einsum("bsd,btd->bst", h, h)) @ h, (1, 2)
    ),
    "einsum with rows in the middle": lambda w, h, ids: jnp.einsum(
        "bsd,de,bse->b", h, w, h
    ),
    "labels by take_along_axis": lambda w, h, ids: jnp.take_along_axis(
        h[:, 0], ids[:, None], axis=-1
    )[:, 0],
    "table lookup": lambda w, h, ids: jnp.sum(w[ids] * h[:, 1], -1),
    "one-hot": lambda w, h, ids: jnp.sum(jax.nn.one_hot(ids, WIDTH) * h[:, 0], -1),
    "sort within a row": lambda w, h, ids: jnp.sort(h, axis=1)[:, 0, 0],
    "top_k within a row": lambda w, h, ids: jnp.sum(jax.lax.top_k(h, 2)[0], (1, 2)),
    "running sum within a row": lambda w, h, ids: jnp.cumsum(h, axis=1)[:, 1, 2],
    "concatenated within a row": lambda w, h, ids: jnp.sum(
        jnp.concatenate([h, h**2, jnp.ones_like(h)], axis=1)[:, 2:5], (1, 2)
    ),
    "padded, rolled within a row": lambda w, h, ids: jnp.sum(
        jnp.roll(jnp.pad(h, ((0, 0), (1, 1), (0, 0))), 1, axis=1)[:, 0], -1
    ),
    "convolution over tokens": lambda w, h, ids: jnp.sum(
        jax.lax.conv_general_dilated(
            h, w[None], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )
        ** 2,
        (1, 2),
    ),
    "rotary embedding": lambda w, h, ids: jnp.sum(
        jnp.stack([h[..., ::2] * 2 - h[..., 1::2], h[..., 1::2]], -1).reshape(h.shape)
        ** 2,
        (1, 2),
    ),
    "pooling over tokens": lambda w, h, ids: jnp.sum(
        nn.max_pool(h, (2,), (1,)), (1, 2)
    ),
    "tokens updated in place": lambda w, h, ids: jnp.sum(
        jax.lax.dynamic_update_slice(h, 2 * h[:, :1], (0, 1, 0)) ** 2, (1, 2)
    ),
    "sort in jax.checkpoint": lambda w, h, ids: jax.checkpoint(
        lambda h: jnp.sum(jnp.sort(h, axis=1)[:, 0], -1)
    )(h),
    "constants of the program": lambda w, h, ids: jnp.sum(
        h * np.arange(WIDTH, dtype=np.float32)[None, None], (1, 2)
    ),
    "cond": lambda w, h, ids: jax.lax.cond(
        w[0, 0] > 0, lambda h: h, lambda h: -2 * h, h
    ).sum((1, 2)),
    "while": lambda w, h, ids: jnp.sum(
        jax.lax.fori_loop(0, 2, lambda _, h: jnp.tanh(h @ w), h), (1, 2)
    ),
    "indexing by arange": lambda w, h, ids: h[jnp.arange(h.shape[0]), 0, ids],
    "indexing by NumPy's arange": lambda w, h, ids: h[np.arange(h.shape[0]), 0, ids],
    "entries set by arange": lambda w, h, ids: jnp.sum(
        h.at[jnp.arange(h.shape[0]), ids % SEQ].set(2 * h[:, 0]) ** 2, (1, 2)
    ),
    "Cholesky of each row": lambda w, h, ids: jnp.sum(
        jnp.linalg.cholesky(h.mT @ h + 9 * jnp.eye(WIDTH)[None]), (1, 2)
    ),
    "tokens first, flattened": lambda w, h, ids: jnp.sum(
        (jnp.swapaxes(h, 0, 1).reshape(-1, WIDTH) @ w).reshape(SEQ, -1, WIDTH) ** 2,
        (0, 2),
    ),
    "two views in one batch": lambda w, h, ids: jnp.sum(
        jnp.prod(jnp.stack(jnp.split(jnp.concatenate([h, jnp.sin(h)]) @ w, 2)), axis=0),
        (1, 2),
    ),
    "variance, max, custom derivative": lambda w, h, ids: (
        jnp.var(h, axis=(1, 2)) + jnp.max(jax.nn.relu(h), axis=(1, 2))
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_rows_that_stay_apart_are_proven_and_exact(name):
    tail = ACCEPTED[name]
    assert_exact(lambda w, rng, batch: tail(w, hidden(w, batch), batch[1]))


def test_batch_norm_is_refused_by_its_name():
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=False)(nn.Dense(4)(x))

    model = Normed()
    params = model.init(jax.random.key(0), X)

    def loss_fn(params, rng, batch):
        outputs, _ = model.apply(params, batch, mutable=["batch_stats"])
        return jnp.sum(outputs**2, (1, 2))

    with pytest.raises(ValueError, match=r"float32\[4\] in .*BatchNorm_0 mixes rows"):
        reused(loss_fn, params, X)


def test_rows_keep_their_dropout_masks_inside_a_checkpoint():
    def loss_fn(w, rng, batch):
        kept = jax.random.bernoulli(rng, 0.5, batch[0].shape)
        return jnp.sum(jnp.where(kept, hidden(w, batch), 0) ** 2, (1, 2))

    rng = jax.random.key(0)
    (_, info), grads = reused(jax.checkpoint(loss_fn), rng=rng)
    drawn_with = jax.random.split(rng)[0]
    expected = jax.grad(
        lambda w: jnp.mean(loss_fn(w, drawn_with, (X, IDS))[info.indices])
    )(W)
    np.testing.assert_allclose(grads, expected, rtol=1e-5, atol=1e-5)


SHAPES = {"1 of 1": (1, 1), "1 of 2": (2, 1), "6 of 6": (6, 6)}


@pytest.mark.parametrize(("num_rows", "num_selected"), SHAPES.values(), ids=SHAPES)
def test_few_rows_or_all_of_them(num_rows, num_selected):
    def loss_fn(w, rng, batch):
        return jnp.sum(jnp.tanh(batch @ w), (1, 2))

    value_and_grad = selective_value_and_grad(
        loss_fn, selectors.top_k(), num_selected=num_selected, reuse_forward=True
    )
    value_and_grad = jax.jit(value_and_grad)
    (_, info), grads = value_and_grad(W, None, X[:num_rows])
    rows = X[info.indices]
    expected = jax.grad(lambda w: jnp.mean(loss_fn(w, None, rows)))(W)
    np.testing.assert_allclose(grads, expected, rtol=1e-5, atol=1e-6)


def test_rows_that_are_not_selected_give_no_nan():
    # the derivative of the square root at 0 is infinite, times a cotangent of 0 is NaN
    batch = jnp.array([0.0, 4.0])
    value_and_grad = selective_value_and_grad(
        lambda w, rng, x: jnp.sqrt(w * x),
        selectors.top_k(),
        num_selected=1,
        reuse_forward=True,
    )
    value_and_grad = jax.jit(value_and_grad)
    for num_rows in (2, 3):
        padded = jnp.pad(batch, (0, num_rows - 2))
        _, grad = value_and_grad(jnp.array(2.0), None, padded)
        np.testing.assert_allclose(grad, np.sqrt(4 / 2) / 2, rtol=1e-6)


def test_a_derivative_not_linear_in_its_cotangent_is_exact_for_one_row():
    # half of the clipped value would come of two rows with half the cotangent each
    @jax.custom_vjp
    def clipped(x):
        return x

    clipped.defvjp(lambda x: (x, None), lambda _, ct: (jnp.clip(ct, -0.1, 0.1),))
    value_and_grad = selective_value_and_grad(
        lambda w, rng, x: 5 * clipped(w * x),
        selectors.top_k(),
        num_selected=1,
        reuse_forward=True,
    )
    _, grad = value_and_grad(jnp.array(2.0), None, jnp.arange(1.0, 4))
    np.testing.assert_allclose(grad, 0.1 * 3, rtol=1e-6)


CASTS: dict[str, Any] = {
    "integers": jnp.int32,
    "booleans": jnp.bool_,
    "float8": jnp.float8_e4m3fn,
}


@pytest.mark.parametrize("dtype", CASTS.values(), ids=CASTS)
def test_a_sum_over_rows_cast_with_loss_is_refused_for_one_row(dtype):
    @jax.custom_vjp
    def cast(w):
        return w

    cast.defvjp(lambda w: (w, None), lambda _, ct: (ct.astype(dtype).astype(ct.dtype),))
    value_and_grad = selective_value_and_grad(
        lambda w, rng, x: 1.7 * cast(w) * x,
        selectors.top_k(),
        num_selected=1,
        reuse_forward=True,
    )
    with pytest.raises(ValueError, match=r"not linear in a sum|may overflow in float8"):
        jax.eval_shape(value_and_grad, jnp.array(2.0), None, jnp.arange(1.0, 4))


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_])
def test_a_row_cast_with_loss_is_exact_for_one_row(dtype):
    @jax.custom_vjp
    def cast(x):
        return x

    cast.defvjp(lambda x: (x, None), lambda _, ct: (ct.astype(dtype).astype(ct.dtype),))
    value_and_grad = selective_value_and_grad(
        lambda w, rng, x: 1.7 * cast(w * x),
        selectors.top_k(),
        num_selected=1,
        reuse_forward=True,
    )
    _, grad = value_and_grad(jnp.array(2.0), None, jnp.arange(1.0, 4))
    np.testing.assert_allclose(grad, 3.0)  # 1.7 is cast to 1


def test_a_reference_from_outside_that_is_written_is_refused():
    total = jax.new_ref(jnp.zeros(()))

    def loss_fn(w, rng, batch):
        total[...] = total[...] + jnp.sum(batch[0])
        return jnp.sum(hidden(w, batch), (1, 2)) * total[...]

    value_and_grad = selective_value_and_grad(
        loss_fn, selectors.top_k(), num_selected=2, reuse_forward=True
    )
    for run in (value_and_grad, jax.jit(value_and_grad)):
        with pytest.raises(
            ValueError, match=r"reuse_forward=True needs .* side effects"
        ):
            run(W, None, (X, IDS))


def test_a_head_for_many_rows_and_another_for_few_is_refused():
    def loss_fn(heads, rng, batch):
        return jnp.sum(jnp.tanh(batch @ heads[len(batch) <= 4]), (1, 2))

    value_and_grad = selective_value_and_grad(
        loss_fn, selectors.top_k(), num_selected=4, reuse_forward=True
    )
    with pytest.raises(ValueError, match="computed from other values"):
        jax.eval_shape(
            lambda w: value_and_grad((w, 2 * w), None, jnp.concatenate([X, X[:2]])), W
        )


@pytest.mark.parametrize(
    "special_case",
    {
        "another head": lambda w, x: jnp.tanh(x @ w.T),
        "another sign": lambda w, x: jnp.tanh(-(x @ w)),
        "another operation": lambda w, x: jnp.sin(x @ w),
    }.items(),
    ids=lambda case: case[0],
)
def test_a_special_case_for_one_row_is_refused_if_one_is_selected(special_case):
    def loss_fn(w, rng, batch):
        h = special_case[1](w, batch) if len(batch) == 1 else jnp.tanh(batch @ w)
        return jnp.sum(h, (1, 2))

    value_and_grad = selective_value_and_grad(
        loss_fn, selectors.top_k(), num_selected=1, reuse_forward=True
    )
    with pytest.raises(ValueError, match="one row is treated in another way"):
        jax.eval_shape(lambda w: value_and_grad(w, None, X), W)


def test_a_scan_over_the_rows_is_refused_with_the_remedy():
    def loss_fn(w, rng, batch):
        return jax.lax.map(lambda x: jnp.sum(jnp.tanh(x @ w)), batch[0])

    with pytest.raises(ValueError, match=r"`scan` -> .*\(use jax.vmap over the rows\)"):
        jax.eval_shape(lambda w: reused(loss_fn, w), W)


@pytest.mark.parametrize("axes", [("rows", "columns"), ("columns", "rows")])
def test_places_kept_on_a_merged_axis_are_refused(axes):
    def loss_fn(w, rng, x):
        places = jnp.broadcast_to(jnp.arange(len(x))[:, None], (len(x), WIDTH))
        places = places if axes[0] == "rows" else places.T

        @jax.checkpoint
        def tail(x, places, w):
            places = places.reshape(places.size // WIDTH, WIDTH)
            places = places if axes[0] == "rows" else places.reshape(WIDTH, -1).T
            return jnp.sum(jnp.sin(jnp.tanh(x @ w)[places, jnp.arange(WIDTH)]), -1)

        return tail(x, places.reshape(-1), w)

    with pytest.raises(ValueError, match=r"places|place in the batch"):
        jax.eval_shape(lambda w: reused(loss_fn, w, X[:, 0]), W)


def test_one_row_in_half_precision_is_refused_as_it_may_overflow():
    def loss_fn(w, rng, x):
        return jnp.sum(x[:, 0].astype(w.dtype) @ w, -1)

    value_and_grad = selective_value_and_grad(
        loss_fn, selectors.top_k(), num_selected=1, reuse_forward=True
    )
    with pytest.raises(ValueError, match="may overflow in float16"):
        jax.eval_shape(lambda w: value_and_grad(w, None, X), W.astype(jnp.float16))


def test_a_loss_for_one_size_of_batch_is_refused():
    table = jnp.ones((ROWS, 1, 1))
    with pytest.raises(ValueError, match="cannot be traced for 2 rows"):
        jax.eval_shape(
            lambda w: reused(
                lambda w, rng, b: jnp.sum(hidden(w, b) * table, (1, 2)), w
            ),
            W,
        )


def test_places_in_the_batch_cannot_be_returned():
    def loss_fn(w, rng, batch):
        places = jnp.arange(len(batch[1]))
        return jnp.sum(hidden(w, batch), (1, 2)), {"row": places}

    value_and_grad = selective_value_and_grad(
        loss_fn, selectors.top_k(), num_selected=2, reuse_forward=True, has_aux=True
    )
    with pytest.raises(ValueError, match="returns the rows' places in the batch"):
        jax.eval_shape(lambda w: value_and_grad(w, None, (X, IDS)), W)


def test_an_operation_without_a_rule_is_refused_by_its_name():
    def loss_fn(w, rng, batch):
        h = jax.lax.stop_gradient(batch[0])
        result = jax.ShapeDtypeStruct((1, *h.shape), h.dtype)
        mean = jax.pure_callback(lambda h: h[None], result, h)
        return jnp.sum(hidden(w, batch) * mean[0], (1, 2))

    with pytest.raises(ValueError, match=r"`pure_callback` -> float32\[1,6,3,4\]"):
        jax.eval_shape(lambda w: reused(loss_fn, w), W)


STEPS = {
    "tanh": lambda h, w: jnp.tanh(h),
    "mix features": lambda h, w: h @ w[: h.shape[-1], : h.shape[-1]],
    "swap tokens and features": lambda h, w: jnp.swapaxes(h, 1, 2),
    "swap rows and tokens": lambda h, w: jnp.swapaxes(h, 0, 1),
    "flatten": lambda h, w: h.reshape(h.shape[0] * h.shape[1], -1),
    "unflatten": lambda h, w: (
        h.reshape(-1, SEQ, h.size // h.shape[0] // SEQ)
        if h.shape[0] * SEQ == h.size
        else h.reshape(-1, SEQ, h.shape[-1])
    ),
    "reverse the first": lambda h, w: h[::-1],
    "reverse the second": lambda h, w: h[:, ::-1],
    "centre the first": lambda h, w: h - jnp.mean(h, 0, keepdims=True),
    "centre the second": lambda h, w: h - jnp.mean(h, 1, keepdims=True),
    "running sum": lambda h, w: jnp.cumsum(h, axis=-1),
    "scale": lambda h, w: h * 2 + 1,
}


@settings(max_examples=10)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=6))
def test_whatever_is_accepted_is_exact(names):
    def loss_fn(w, rng, batch):
        h = batch[0] @ w
        for name in names:
            h = STEPS[name](h, w) if h.ndim == 3 or "flatten" in name else h
            h = h if h.ndim == 3 or name == "flatten" else h[:, None]
        size = batch[0].shape[0]
        if h.size % size:
            return jnp.sum(batch[0] @ w, (1, 2))
        return jnp.sum(jnp.sin(h.reshape(size, -1)), axis=1)

    value_and_grad = selective_value_and_grad(
        loss_fn, selectors.top_k(), num_selected=2, reuse_forward=True
    )
    try:
        jax.eval_shape(value_and_grad, W, None, (X, IDS))
    except ValueError as error:
        if "reuse_forward=True needs a loss" not in str(error):
            raise
        return
    assert_exact(loss_fn)
