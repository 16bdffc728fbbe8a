"""Losses in which rows meet, or differ by their place, in many ways.

Each takes (w, rng, x, h, ids): the weights `[width, width]`, a key, the examples
`[batch, seq, width]`, `h = tanh(x @ w)` and integers `[batch]`; and returns losses.
"""

import itertools
import random
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

ROWS, SEQ, WIDTH = 6, 3, 4


def total(h):
    return jnp.sum(h, axis=tuple(range(1, h.ndim)))


def _size(h):
    return h.shape[0]


# Statistics over the batch.

STATISTICS = {
    "batch norm": lambda w, rng, x, h, ids: total(
        jnp.sin((h - h.mean(0, keepdims=True)) / (h.std(0, keepdims=True) + 1))
    ),
    "centred by the batch's mean": lambda w, rng, x, h, ids: total(
        jnp.square(h - h.mean(0, keepdims=True))
    ),
    "centred by a mean without gradient": lambda w, rng, x, h, ids: total(
        jnp.square(h - lax.stop_gradient(h.mean(0, keepdims=True)))
    ),
    "scaled by the batch's maximum": lambda w, rng, x, h, ids: total(h / jnp.max(h)),
    "divided by the sum of losses": lambda w, rng, x, h, ids: (
        total(h**2) / jnp.sum(total(h**2))
    ),
    "mean of the batch added": lambda w, rng, x, h, ids: total(h) + jnp.mean(h**2),
    "the mean, broadcast": lambda w, rng, x, h, ids: jnp.broadcast_to(
        jnp.mean(h**2), (_size(h),)
    ),
    "softmax over the batch": lambda w, rng, x, h, ids: total(
        jax.nn.softmax(h, axis=0)
    ),
    "softmax over batch and tokens": lambda w, rng, x, h, ids: total(
        jax.nn.softmax(h, axis=(0, 1))
    ),
    "logsumexp over the batch": lambda w, rng, x, h, ids: (
        total(h) - jax.nn.logsumexp(total(h))
    ),
    "product over the batch": lambda w, rng, x, h, ids: total(h) * jnp.prod(h[:, 0, 0]),
    "count over the batch": lambda w, rng, x, h, ids: (
        total(h) / (1 + jnp.sum(ids == 1))
    ),
    "any over the batch": lambda w, rng, x, h, ids: total(
        jnp.where(jnp.any(ids > 1), h, -h)
    ),
    "the batch's arg max": lambda w, rng, x, h, ids: total(
        h * h[jnp.argmax(total(h))][None]
    ),
    "quantile of the batch": lambda w, rng, x, h, ids: total(h) - jnp.median(total(h)),
    "whitened": lambda w, rng, x, h, ids: total(
        h[:, 0] @ jnp.linalg.inv(h[:, 0].T @ h[:, 0] + jnp.eye(WIDTH))
    ),
    "orthonormalised": lambda w, rng, x, h, ids: total(jnp.linalg.qr(h[:, 0])[0]),
    "moving average over rows": lambda w, rng, x, h, ids: total(
        lax.scan(lambda m, h: (0.9 * m + h, 0.9 * m + h), h[0], h)[1]
    ),
    "psum over vmap's axis": lambda w, rng, x, h, ids: jax.vmap(
        lambda h: jnp.sum(h) - lax.psum(jnp.sum(h), "rows"), axis_name="rows"
    )(h),
    "centres of classes": lambda w, rng, x, h, ids: total(
        h - jax.ops.segment_sum(h, ids, num_segments=3)[ids]
    ),
    "a memory that rows are written to": lambda w, rng, x, h, ids: total(
        h * lax.dynamic_update_slice(jnp.ones((99, SEQ, WIDTH)), h, (0, 0, 0))[:1]
    ),
    "the norm of all rows": lambda w, rng, x, h, ids: total(h) / jnp.linalg.norm(h),
    "standardised losses": lambda w, rng, x, h, ids: jax.nn.standardize(
        total(h), axis=0
    ),
    "the worst row only": lambda w, rng, x, h, ids: jnp.where(
        total(h) >= lax.top_k(total(h), 1)[0][-1], total(h), 0
    ),
    "var in a scan's body": lambda w, rng, x, h, ids: total(
        lax.scan(lambda h, _: (h / (1 + h.var(0, keepdims=True)), None), h, None, 2)[0]
    ),
}

# Pairs and neighbours.

PAIRS = {
    "InfoNCE": lambda w, rng, x, h, ids: (
        optax.softmax_cross_entropy_with_integer_labels(
            h[:, 0] @ h[:, 1].T, jnp.arange(_size(h))
        )
    ),
    "supervised contrast": lambda w, rng, x, h, ids: jnp.sum(
        jnp.where(ids[:, None] == ids[None], h[:, 0] @ h[:, 0].T, 0), axis=1
    ),
    "distances between rows": lambda w, rng, x, h, ids: jnp.min(
        jnp.sum((h[:, None] - h[None]) ** 2, (2, 3)) + 9 * jnp.eye(_size(h)), axis=1
    ),
    "einsum over rows": lambda w, rng, x, h, ids: jnp.einsum("bsd,csd->b", h, h),
    "vmap of vmap": lambda w, rng, x, h, ids: total(
        jax.vmap(lambda a: jax.vmap(lambda b: jnp.vdot(a, b))(h))(h)
    ),
    "attention over rows": lambda w, rng, x, h, ids: total(
        jax.nn.dot_product_attention(*[jnp.swapaxes(h, 0, 1)[..., None]] * 3)[
            ..., 0
        ].swapaxes(0, 1)
    ),
    "rolled rows": lambda w, rng, x, h, ids: total(jnp.roll(h, 1, axis=0) * h),
    "reversed rows": lambda w, rng, x, h, ids: total(h[::-1] * h),
    "sorted rows": lambda w, rng, x, h, ids: total(jnp.sort(h, axis=0)),
    "sorted losses": lambda w, rng, x, h, ids: jnp.sort(total(h)),
    "rows ordered by their labels": lambda w, rng, x, h, ids: total(
        h[jnp.argsort(ids)]
    ),
    "rows gathered": lambda w, rng, x, h, ids: total(h[ids] * h),
    "rows gathered by a constant": lambda w, rng, x, h, ids: total(
        h[jnp.array([0])] * h
    ),
    "rows taken with clipping": lambda w, rng, x, h, ids: total(
        jnp.take(h, ids, axis=0, mode="clip")
    ),
    "take_along_axis over rows": lambda w, rng, x, h, ids: total(
        jnp.take_along_axis(h, ids[:, None, None], axis=0)
    ),
    "first row": lambda w, rng, x, h, ids: total(h * h[:1]),
    "last row": lambda w, rng, x, h, ids: total(h * h[-1][None]),
    "the next row": lambda w, rng, x, h, ids: total(
        h * jnp.concatenate([h[1:], h[:1]])
    ),
    "differences of rows": lambda w, rng, x, h, ids: total(
        jnp.diff(h, axis=0, prepend=h[:1])
    ),
    "halves swapped": lambda w, rng, x, h, ids: total(
        h * jnp.concatenate(jnp.split(h, 2)[::-1])
    ),
    "pairs of rows": lambda w, rng, x, h, ids: jnp.repeat(
        total(h.reshape(-1, 2 * SEQ, WIDTH)), 2
    ),
    "mixup": lambda w, rng, x, h, ids: total(
        h * h[jax.random.permutation(jax.random.key(0), _size(h))]
    ),
    "shifted by a pad": lambda w, rng, x, h, ids: total(
        h * lax.pad(h, 0.0, ((-1, 1, 0), (0, 0, 0), (0, 0, 0)))
    ),
    "a row by dynamic_slice": lambda w, rng, x, h, ids: total(
        h * lax.dynamic_slice_in_dim(h, ids[0], 1, axis=0)
    ),
    "a row updated": lambda w, rng, x, h, ids: total(
        lax.dynamic_update_slice(h, 2 * h[:1], (1, 0, 0))
    ),
    "rows swapped by .at[].set": lambda w, rng, x, h, ids: total(h.at[0].set(h[1]) * h),
    "rows permuted by .at[].set": lambda w, rng, x, h, ids: total(
        jnp.zeros_like(h).at[(jnp.arange(_size(h)) + 1) % _size(h)].set(h) * h
    ),
    "another row's label": lambda w, rng, x, h, ids: total(
        h[jnp.arange(_size(h))[::-1], 0, ids][:, None]
    ),
    "indices of the next row": lambda w, rng, x, h, ids: h[
        (jnp.arange(_size(h)) + 1) % _size(h), 0, ids
    ],
}

# Running over the rows, axes confused.

ALONG_ROWS = {
    "cumsum": lambda w, rng, x, h, ids: jnp.cumsum(total(h)),
    "cummax": lambda w, rng, x, h, ids: lax.cummax(total(h)),
    "scan": lambda w, rng, x, h, ids: lax.scan(
        lambda c, h: (c + jnp.sum(h), c * jnp.sum(h)), 0.0, h
    )[1],
    "associative_scan": lambda w, rng, x, h, ids: total(
        lax.associative_scan(jnp.multiply, h + 2, axis=0)
    ),
    "fft over rows": lambda w, rng, x, h, ids: total(jnp.fft.fft(h, axis=0).real),
    "convolution over rows": lambda w, rng, x, h, ids: total(
        lax.conv_general_dilated(
            jnp.moveaxis(h, 0, 1),
            w[:3, :, None],
            (1,),
            "SAME",
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=1,
        ).swapaxes(0, 1)
    ),
    "pooling over rows": lambda w, rng, x, h, ids: total(
        lax.reduce_window(h, -jnp.inf, lax.max, (3, 1, 1), (1, 1, 1), "SAME")
    ),
    "rows and tokens confused": lambda w, rng, x, h, ids: total(
        jnp.swapaxes(h, 0, 1).reshape(h.shape)
    ),
    "rows and tokens confused by Fortran's order": lambda w, rng, x, h, ids: total(
        jnp.reshape(h, (-1, SEQ * WIDTH), order="F")
    ),
    "tokens of all rows rolled": lambda w, rng, x, h, ids: total(
        jnp.roll(h.reshape(-1, WIDTH), 1, axis=0).reshape(h.shape) * h
    ),
    "cumsum over tokens of all rows": lambda w, rng, x, h, ids: total(
        jnp.cumsum(h.reshape(-1, WIDTH), axis=0).reshape(h.shape)
    ),
    "top tokens of all rows": lambda w, rng, x, h, ids: (
        total(h) * jnp.sum(lax.top_k(h.reshape(-1), 3)[0])
    ),
    "experts with one capacity": lambda w, rng, x, h, ids: (
        total(h) * (jnp.cumsum(ids == 1) < 2)
    ),
    "tokens sorted by expert": lambda w, rng, x, h, ids: total(
        lax.ragged_dot(
            h.reshape(-1, WIDTH),
            jnp.stack([w, 2 * w]),
            jnp.array([SEQ, 99 * SEQ]),
        ).reshape(h.shape)
    ),
    "views interleaved": lambda w, rng, x, h, ids: total(
        jnp.concatenate([h, 2 * h]).reshape(-1, 2, SEQ, WIDTH)
    ),
    "the second view of other rows": lambda w, rng, x, h, ids: total(
        jnp.concatenate([h, 2 * h])[_size(h) // 2 : 3 * _size(h) // 2]
    ),
    "one factor for each view, rows interleaved": lambda w, rng, x, h, ids: total(
        (
            jnp.repeat(h, 2, axis=0)
            * jnp.concatenate(
                [jnp.ones((_size(h), 1, 1)), 2 * jnp.ones_like(h[:, :1, :1])]
            )
        ).reshape(-1, 2 * SEQ, WIDTH)
    ),
    "Kronecker product": lambda w, rng, x, h, ids: total(
        jnp.kron(h[:, 0], jnp.ones((2, 1))).reshape(2, -1, WIDTH).swapaxes(0, 1)
    ),
    "Cholesky of the rows' kernel": lambda w, rng, x, h, ids: total(
        jnp.linalg.cholesky(h[:, 0] @ h[:, 0].T + jnp.eye(_size(h)))
    ),
    "while some row is large": lambda w, rng, x, h, ids: (
        total(h)
        * lax.stop_gradient(
            lax.while_loop(lambda c: c < 10 + jnp.max(ids), lambda c: c + 3, 0)
        )
    ),
    "cond by some row": lambda w, rng, x, h, ids: lax.cond(
        jnp.sum(ids) > 3, total, lambda h: -total(h), h
    ),
    "switch by the first row": lambda w, rng, x, h, ids: lax.switch(
        ids[0], [total, lambda h: -total(h)], h
    ),
    "map in parts of the batch": lambda w, rng, x, h, ids: total(
        lax.map(lambda h: h - h.mean(), h.reshape(2, -1, SEQ, WIDTH)).reshape(h.shape)
    ),
}

# By place, by size, by chance, by the number of traces.

_COUNTER = itertools.count()


def _toggled(h):
    return h if next(_COUNTER) % 2 else -h


def _heads(w, x, few):
    return total(jnp.tanh(x @ (w[:2].T if few else w[2:].T)))


BY_PLACE = {
    "row numbers": lambda w, rng, x, h, ids: total(h) * jnp.arange(_size(h)),
    "row numbers by NumPy": lambda w, rng, x, h, ids: (
        total(h) * np.arange(_size(h), dtype=np.float32)
    ),
    "row numbers, one-hot": lambda w, rng, x, h, ids: total(
        jax.nn.one_hot(jnp.arange(_size(h)), _size(h)) @ h[:, 0]
    ),
    "the identity": lambda w, rng, x, h, ids: total(jnp.eye(_size(h)) @ h[:, 0]),
    "a table looked up by row number": lambda w, rng, x, h, ids: (
        total(h) * w.reshape(-1)[jnp.arange(_size(h))]
    ),
    "a table cut to the batch": lambda w, rng, x, h, ids: (
        total(h) * w.reshape(-1)[: _size(h)]
    ),
    "odd rows": lambda w, rng, x, h, ids: jnp.where(
        jnp.arange(_size(h)) % 2 == 0, total(h), 0
    ),
    "the first rows": lambda w, rng, x, h, ids: jnp.where(
        jnp.arange(_size(h)) < 2, total(h), 0
    ),
    "the third row": lambda w, rng, x, h, ids: jnp.where(
        jnp.arange(_size(h)) - 2 == 0, total(h), 0
    ),
    "numbers that coincide": lambda w, rng, x, h, ids: jnp.where(
        jnp.arange(_size(h)) + 1 == (jnp.arange(2 * _size(h)) + 1).reshape(-1, 2)[:, 0],
        total(h),
        0,
    ),
    "positions from linspace": lambda w, rng, x, h, ids: (
        total(h) * jnp.linspace(0, 1, _size(h))
    ),
    "label smoothing by size": lambda w, rng, x, h, ids: total(h) * (1 - 1 / _size(h)),
    "divided by the batch's size": lambda w, rng, x, h, ids: total(h) / _size(h),
    "a power by size": lambda w, rng, x, h, ids: total(h) ** _size(h),
    "a loop by size": lambda w, rng, x, h, ids: lax.fori_loop(
        0, _size(h), lambda _, t: 1.1 * t, total(h)
    ),
    "a Python loop by size": lambda w, rng, x, h, ids: sum(
        total(h * k) for k in range(_size(h))
    ),
    "a scan of as many steps as rows": lambda w, rng, x, h, ids: (
        total(h) * lax.scan(lambda c, _: (c * 1.1, None), 1.0, length=_size(h))[0]
    ),
    "a running sum mirrored for many rows, not for few": lambda w, rng, x, h, ids: (
        total(lax.cumsum(h, 1, reverse=_size(h) > 4)[:, 0])
    ),
    "a slice by size": lambda w, rng, x, h, ids: total(
        h[:, :, _size(h) % 5 :][..., :1]
    ),
    "a constant by size": lambda w, rng, x, h, ids: total(
        h * np.full((1, 1, WIDTH), 1 / _size(h), np.float32)
    ),
    "one head for many rows, one for few": lambda w, rng, x, h, ids: _heads(
        w, x, _size(h) > 4
    ),
    "a - c for many rows, c - a for few": lambda w, rng, x, h, ids: (
        total(h) - total(x) if _size(h) > 4 else total(x) - total(h)
    ),
    "operands swapped in a scan": lambda w, rng, x, h, ids: total(
        lax.scan(
            lambda a, _: (a - h / 2 if _size(h) > 4 else h / 2 - a, None),
            2 * h,
            None,
            1,
        )[0]
    ),
    "outputs swapped in a cond": lambda w, rng, x, h, ids: total(
        lax.cond(
            w[0, 0] > 0,
            lambda h, x: (h, x) if _size(h) > 4 else (x, h),
            lambda h, x: (x, h),
            h,
            jnp.sin(x),
        )[0]
    ),
    "outputs swapped in a jit": lambda w, rng, x, h, ids: total(
        jax.jit(lambda h, x: (h, x) if _size(h) > 4 else (x, h))(h, jnp.sin(x))[0]
    ),
    "outputs swapped in a custom_jvp": lambda w, rng, x, h, ids: total(
        jax.nn.relu(h if _size(h) > 4 else jnp.sin(x @ w))
        - jax.nn.relu(jnp.sin(x @ w) if _size(h) > 4 else h)
    ),
    "the while loop's bound by size": lambda w, rng, x, h, ids: (
        total(h)
        * lax.while_loop(lambda c: c < _size(h), lambda c: c + 2, w[0, 0].astype(int))
    ),
    "a sign from a counter": lambda w, rng, x, h, ids: total(_toggled(h)),
    "a factor from random.random": lambda w, rng, x, h, ids: total(h) * random.random(),
    "a matrix from numpy.random": lambda w, rng, x, h, ids: total(
        h @ np.random.default_rng().normal(size=(WIDTH, 2)).astype(np.float32)
    ),
    "draws by size": lambda w, rng, x, h, ids: (
        total(h) * jax.random.normal(jax.random.fold_in(jax.random.key(0), _size(h)))
    ),
    "the sum of the rows' draws": lambda w, rng, x, h, ids: (
        total(h) * jnp.sum(jax.random.normal(jax.random.key(0), (_size(h),)))
    ),
    "a callback": lambda w, rng, x, h, ids: (
        total(h)
        * jax.pure_callback(
            lambda h: h.sum((1, 2)),
            jax.ShapeDtypeStruct((_size(h),), h.dtype),
            lax.stop_gradient(h),
        )
    ),
    "the sum of a constant over rows": lambda w, rng, x, h, ids: (
        total(h) / jnp.sum(jnp.ones((_size(h),)))
    ),
}


def _labels(h, add=1, dtype=jnp.int32):
    size = h.shape[0]
    return (lax.iota(dtype, size * SEQ) + dtype(add)).reshape(size, SEQ)


def _masked(h, mask):
    return total(h * jnp.where(mask, 3.0, 1.0)[..., None])


def _written(w, h):
    ref = jax.new_ref(jnp.zeros(()))

    def step(c, _):
        ref[...] = ref[...] + h.mean()
        return c, None

    lax.scan(step, 0, None, length=1)
    return total(h) * ref[...]


BY_PLACE |= {
    "a reference written to": lambda w, rng, x, h, ids: _written(w, h),
    "a callback without operands": lambda w, rng, x, h, ids: (
        total(h)
        * jax.pure_callback(
            lambda: np.float32(_size(h)), jax.ShapeDtypeStruct((), np.float32)
        )
    ),
    "places as booleans": lambda w, rng, x, h, ids: total(
        h[jnp.arange(_size(h)).astype(bool).astype(int)]
    ),
    "places in 8 bits": lambda w, rng, x, h, ids: total(
        h[lax.iota(jnp.uint8, _size(h)), 0][:, None]
    ),
    "columns in proportion to rows": lambda w, rng, x, h, ids: total(
        lax.slice(
            jnp.tile(x[:, 0], (1, 4)), (0, _size(h)), (_size(h), 2 * _size(h)), (1, 99)
        )
        * h[:, 0, :1]
    ),
    "labels of several kinds": lambda w, rng, x, h, ids: _masked(
        h,
        (
            lambda f, n: (
                f(jnp.broadcast_to(jnp.arange(n)[:, None], (n, SEQ)))
                == f(jnp.arange(n * SEQ).reshape(n, SEQ))
            )
        )(jax.jit(lambda label: label + 1), _size(h)),
    ),
    "labels filled in": lambda w, rng, x, h, ids: _masked(
        h,
        jnp.take_along_axis(
            _labels(h), jnp.full((_size(h), SEQ), 99), 1, mode="fill", fill_value=5
        )
        == _labels(h),
    ),
    "labels in 8 bits": lambda w, rng, x, h, ids: _masked(
        h, _labels(h, dtype=jnp.uint8) == 0
    ),
    "labels below zero": lambda w, rng, x, h, ids: _masked(
        h,
        _labels(h, add=0)
        + lax.cond(w[0, 0] > 99, lambda: jnp.int32(1), lambda: jnp.int32(-4))
        == 0,
    ),
}

# Custom derivatives.


def _identity_with_backward(backward, keep=lambda h: None):
    @jax.custom_vjp
    def identity(h):
        return h

    identity.defvjp(lambda h: (h, keep(h)), backward)
    return identity


def _identity_with_tangent(tangent):
    @jax.custom_jvp
    def identity(h):
        return h

    @identity.defjvp
    def _(primals, tangents):
        return primals[0], tangent(*primals, *tangents)

    return identity


@jax.custom_vjp
def _centred(h):
    return h - jnp.mean(h, 0, keepdims=True)


_centred.defvjp(lambda h: (_centred(h), None), lambda _, ct: (ct,))


@jax.custom_vjp
def _matmul(w, x):
    return x @ w


def _scaled_matmul(kept, ct):
    w, x = kept
    return jnp.einsum("bsd,bse->de", x, ct) / len(x), ct @ w.T


_matmul.defvjp(lambda w, x: (x @ w, (w, x)), _scaled_matmul)


@jax.custom_vjp
def _matmul_and_tanh(w, x):
    return x @ w


_matmul_and_tanh.defvjp(
    lambda w, x: (x @ w, (w, x)),
    lambda kept, ct: (
        jnp.tanh(jnp.einsum("bsd,bse->de", kept[1], ct)),
        ct @ kept[0].T,
    ),
)


@jax.custom_vjp
def _constant_gradient(w, x):
    return x @ w


_constant_gradient.defvjp(
    lambda w, x: (x @ w, None), lambda _, ct: (jnp.ones((WIDTH, WIDTH)), ct)
)

_BACKWARD = {
    "divides by size": lambda _, ct: (ct / _size(ct),),
    "multiplies by size": lambda _, ct: (ct * _size(ct),),
    "takes the mean over rows": lambda _, ct: (
        jnp.broadcast_to(ct.mean(0, keepdims=True), ct.shape),
    ),
    "sums over rows": lambda _, ct: (
        jnp.broadcast_to(ct.sum(0, keepdims=True), ct.shape),
    ),
    "centres over rows": lambda _, ct: (ct - ct.mean(0, keepdims=True),),
    "normalises over rows": lambda _, ct: (ct / jnp.linalg.norm(ct),),
    "clips by the global norm": lambda _, ct: (
        ct * jnp.minimum(1, 1 / (1e-9 + jnp.sqrt(jnp.sum(ct**2)))),
    ),
    "reverses rows": lambda _, ct: (ct[::-1],),
    "rolls rows": lambda _, ct: (jnp.roll(ct, 1, axis=0),),
    "sorts rows": lambda _, ct: (jnp.sort(ct, axis=0),),
    "numbers rows": lambda _, ct: (ct * jnp.arange(_size(ct))[:, None, None],),
    "draws by place": lambda _, ct: (
        ct * jax.random.normal(jax.random.key(0), ct.shape),
    ),
    "draws gammas by place": lambda _, ct: (
        ct * jax.random.gamma(jax.random.key(0), jnp.abs(ct) + 1),
    ),
    "counts by a scan": lambda _, ct: (
        ct * lax.scan(lambda c, _: (c + 1.0, None), 0.0, ct)[0],
    ),
    "subtracts the first row": lambda _, ct: (ct - ct[:1],),
    "runs over rows": lambda _, ct: (jnp.cumsum(ct, axis=0),),
}


def _apply(identity, w, rng, x, h, ids):
    return total(jnp.sin(identity(h)))


CUSTOM = {
    **{
        f"a backward pass that {name}": partial(
            _apply, _identity_with_backward(backward)
        )
        for name, backward in _BACKWARD.items()
    },
    "a backward pass that uses the rows' mean kept": partial(
        _apply,
        _identity_with_backward(lambda mean, ct: (ct * mean,), lambda h: h.mean()),
    ),
    "a backward pass that uses the size kept": partial(
        _apply,
        _identity_with_backward(lambda n, ct: (ct / n,), lambda h: jnp.float32(len(h))),
    ),
    "a backward pass that uses the size kept as an int": partial(
        _apply, _identity_with_backward(lambda n, ct: (ct / n,), len)
    ),
    "a gradient of weights divided by size": lambda w, rng, x, h, ids: total(
        jnp.sin(_matmul(w, x))
    ),
    "a gradient of weights that is not linear": lambda w, rng, x, h, ids: total(
        jnp.sin(_matmul_and_tanh(w, x))
    ),
    "a gradient of weights that is constant": lambda w, rng, x, h, ids: total(
        jnp.sin(_constant_gradient(w, x))
    ),
    "a tangent centred over rows": partial(
        _apply, _identity_with_tangent(lambda h, t: t - t.mean(0, keepdims=True))
    ),
    "a tangent divided by size": partial(
        _apply, _identity_with_tangent(lambda h, t: t / _size(t))
    ),
    "a tangent rolled": partial(
        _apply, _identity_with_tangent(lambda h, t: jnp.roll(t, 1, axis=0))
    ),
    "a tangent scaled by the rows' maximum": partial(
        _apply, _identity_with_tangent(lambda h, t: t * jnp.max(h))
    ),
    "a mean in jax.checkpoint": lambda w, rng, x, h, ids: jax.checkpoint(
        lambda h: total(jnp.tanh(h - h.mean(0, keepdims=True)))
    )(h),
    "a forward pass centred in custom_vjp": partial(_apply, _centred),
}

LOSSES = {
    f"{kind}: {name}": function
    for kind, losses in {
        "statistics": STATISTICS,
        "pairs": PAIRS,
        "along rows": ALONG_ROWS,
        "by place": BY_PLACE,
        "custom derivatives": CUSTOM,
    }.items()
    for name, function in losses.items()
}
