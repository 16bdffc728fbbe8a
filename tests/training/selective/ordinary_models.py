"""Models and losses of every kind whose rows stay apart, small.

Each maker returns `(loss_fn, params, batch)`. The parameters are random numbers: to
compile an initialiser takes longer than the test.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

ROWS, SEQ, WIDTH, CLASSES = 4, 3, 4, 5
MODELS: dict[str, Callable[[], tuple[Any, Any, Any]]] = {}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def integers(seed: int, below: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, below, shape).astype(np.int32)


TOKENS, IDS = normal(0, ROWS, SEQ, WIDTH), integers(1, CLASSES, ROWS, SEQ)
IMAGES, LABELS = normal(2, ROWS, 4, 4, 2), integers(3, CLASSES, ROWS)
LENGTHS = np.array([2, 1, 3, 2], np.int32)
W = normal(4, WIDTH, WIDTH) / 2


def filled(shapes: Any) -> Any:
    """Numbers for abstract parameters."""
    rng = np.random.default_rng(5)

    def fill(leaf):
        draw = rng.normal(size=leaf.shape) / 2 + (len(leaf.shape) < 2) / 2
        return jnp.asarray(draw, leaf.dtype)

    return jax.tree.map(fill, shapes)


def model(name: str) -> Callable[[Any], Any]:
    """Register a function of (w, rng, tokens, ids), which returns losses."""

    def register(function):
        def loss_fn(w, rng, batch):
            return function(w, rng, *batch)

        MODELS[name] = lambda: (loss_fn, jnp.asarray(W), (TOKENS, IDS))
        return function

    return register


def square(outputs):
    return jnp.mean(jnp.square(outputs), axis=tuple(range(1, outputs.ndim)))


def classify(outputs, labels):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels)


def linen(name: str, module: nn.Module, inputs: Any, loss=square, **kwargs: Any):
    """Register a Flax model, called with `inputs`."""

    def make():
        shapes = jax.eval_shape(
            partial(module.init, **kwargs), jax.random.key(0), *inputs
        )

        def loss_fn(params, rng, batch):
            rngs = None if rng is None else {"dropout": rng}
            return loss(module.apply(params, *batch, rngs=rngs, **kwargs))

        return loss_fn, filled(shapes), inputs

    MODELS[name] = make


def in_module(function):
    """A Flax module of a compact `__call__`."""

    class Module(nn.Module):
        @nn.compact
        def __call__(self, *args):
            return function(*args)

    return Module()


# Flax models.


class Block(nn.Module):
    rate: float = 0.0
    num_heads: int = 2

    @nn.compact
    def __call__(self, x, _=None):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(self.num_heads)(y, y)
        y = nn.Dense(2 * WIDTH)(nn.LayerNorm()(x))
        y = nn.Dropout(self.rate, deterministic=self.rate == 0)(nn.gelu(y))
        return x + nn.Dense(WIDTH)(y), None


@in_module
def mlp(x):
    return nn.Dense(CLASSES)(nn.relu(nn.Dense(6)(x)))


def _with_class_token(make_tokens):
    @in_module
    def vit(images):
        x = nn.Conv(WIDTH, (2, 2), (2, 2))(images).reshape(len(images), -1, WIDTH)
        token = nn.Embed(1, WIDTH)(jnp.zeros((1, 1), int))
        x = jnp.concatenate([make_tokens(token, len(images)), x], axis=1)
        x = x + jnp.ones((1, 5, WIDTH)) / 2
        return (jax.nn.softmax(x @ nn.Dense(WIDTH)(x).mT) @ x)[:, 0]

    return vit


linen("MLP", mlp, (TOKENS,))
linen("MLP in bfloat16", nn.Dense(3, dtype=jnp.bfloat16), (TOKENS,))
linen(
    "class token, tiled",
    _with_class_token(lambda t, n: jnp.tile(t, (n, 1, 1))),
    (IMAGES,),
)
linen(
    "class token, broadcast",
    _with_class_token(lambda t, n: jnp.broadcast_to(t, (n, 1, WIDTH))),
    (IMAGES,),
)
linen(
    "class token, repeated",
    _with_class_token(lambda t, n: jnp.repeat(t, n, axis=0)),
    (IMAGES,),
)
linen("transformer block", Block(), (TOKENS,), lambda out: square(out[0]))
linen("dropout", Block(0.5), (TOKENS,), lambda out: square(out[0]))
linen(
    "remat block with dropout", nn.remat(Block)(0.5), (TOKENS,), lambda o: square(o[0])
)
linen(
    "remat with a policy",
    nn.remat(Block, policy=jax.checkpoint_policies.dots_saveable)(),
    (TOKENS,),
    lambda out: square(out[0]),
)


def _layers(block, **kwargs):
    broadcast: Any = nn.broadcast
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        length=2,
        in_axes=broadcast,
    )(**kwargs)


linen("scan over blocks", _layers(Block), (TOKENS, None), lambda out: square(out[0]))
linen(
    "scan over checkpointed blocks with dropout",
    _layers(nn.remat(Block, prevent_cse=False), rate=0.5),
    (TOKENS, None),
    lambda out: square(out[0]),
)


@in_module
def decoder(ids):
    embed = nn.Embed(CLASSES, WIDTH)
    x = embed(ids) + nn.Embed(SEQ, WIDTH)(jnp.arange(ids.shape[1]))[None]
    mask = nn.combine_masks(nn.make_causal_mask(ids), nn.make_attention_mask(ids, ids))
    x = nn.MultiHeadDotProductAttention(2)(x, x, mask=mask)
    logits = embed.attend(nn.RMSNorm()(x))
    return jnp.mean(classify(logits[:, :-1], ids[:, 1:]), axis=-1)


@in_module
def encoder_decoder(ids, tokens):
    x = nn.Embed(CLASSES, WIDTH)(ids)
    x = x + nn.MultiHeadDotProductAttention(2)(x, tokens)
    return nn.DenseGeneral((2, 3), axis=-1)(x)


@in_module
def mixer(x):
    x = x + nn.Dense(SEQ)(nn.LayerNorm()(x).mT).mT
    return x + nn.Dense(WIDTH)(nn.LayerNorm()(x))


@in_module
def conv_net(x):
    x = nn.relu(nn.GroupNorm(2)(nn.Conv(4, (3, 3))(x)))
    x = nn.max_pool(x, (2, 2), (2, 2))
    x = nn.Conv(4, (3, 3), feature_group_count=4)(x)
    return nn.ConvTranspose(3, (2, 2), (2, 2))(nn.avg_pool(x, (2, 2), (1, 1)))


linen("decoder with tied embeddings", decoder, (IDS,), lambda out: out)
linen("encoder and decoder", encoder_decoder, (IDS, TOKENS))
linen("MLP mixer", mixer, (TOKENS,))
linen("convolutions", conv_net, (IMAGES,))
linen("dilated convolution", nn.Conv(3, (2,), kernel_dilation=2), (TOKENS,))
linen("instance norm", nn.InstanceNorm(), (IMAGES,))
linen("weight norm", in_module(lambda x: nn.WeightNorm(nn.Dense(3))(x)), (TOKENS,))
linen(
    "batch norm with running averages",
    nn.BatchNorm(use_running_average=True),
    (TOKENS,),
)
linen("LSTM", nn.RNN(nn.OptimizedLSTMCell(3)), (TOKENS,))
linen(
    "GRU, tokens first",
    in_module(lambda x: nn.RNN(nn.GRUCell(3), time_major=True)(jnp.swapaxes(x, 0, 1))),
    (TOKENS,),
    lambda out: square(jnp.swapaxes(out, 0, 1)),
)
linen(
    "RNN with sequence lengths",
    in_module(
        lambda x, n: nn.RNN(nn.SimpleCell(3), return_carry=True)(x, seq_lengths=n)
    ),
    (TOKENS, LENGTHS),
    lambda out: square(out[0]),
)
linen(
    "RNN in both directions with sequence lengths",
    in_module(
        lambda x, n: nn.Bidirectional(nn.RNN(nn.GRUCell(3)), nn.RNN(nn.GRUCell(3)))(
            x, seq_lengths=n
        )
    ),
    (TOKENS, LENGTHS),
)


# NNX and Equinox.


def _nnx(name, build, inputs, call, loss=square):
    def make():
        module = nnx.eval_shape(build)
        definition, params, rest = nnx.split(module, nnx.Param, ...)

        def loss_fn(params, rng, batch):
            rngs = {} if rng is None else {"rngs": nnx.Rngs(dropout=rng)}
            return loss(call(nnx.merge(definition, params, filled(rest)), batch, rngs))

        return loss_fn, filled(params), inputs

    MODELS[name] = make


_nnx(
    "NNX MLP",
    lambda: nnx.Sequential(
        nnx.Linear(WIDTH, 6, rngs=nnx.Rngs(0)),
        nnx.relu,
        nnx.LayerNorm(6, rngs=nnx.Rngs(0)),
    ),
    TOKENS,
    lambda module, x, rngs: module(x),
)
_nnx(
    "NNX attention",
    lambda: nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=nnx.Rngs(0)),
    TOKENS,
    lambda module, x, rngs: module(x),
)


def _dropout_nnx(module, x, rngs):
    return nnx.Dropout(0.5, deterministic=not rngs)(module(x), **rngs)


_nnx(
    "NNX dropout",
    lambda: nnx.Linear(WIDTH, 6, rngs=nnx.Rngs(0)),
    TOKENS,
    _dropout_nnx,
)


def _equinox(name, build, inputs, call):
    def make():
        module = eqx.filter_eval_shape(build, jax.random.key(0))
        params, static = eqx.partition(module, lambda x: hasattr(x, "shape"))

        def loss_fn(params, rng, batch):
            return square(call(eqx.combine(params, static), batch))

        return loss_fn, filled(params), inputs

    MODELS[name] = make


_equinox(
    "Equinox MLP",
    lambda key: eqx.nn.MLP(WIDTH, 3, 5, 1, key=key),
    TOKENS[:, 0],
    lambda module, x: jax.vmap(module)(x),
)
_equinox(
    "Equinox convolution",
    lambda key: eqx.nn.Conv2d(4, 3, 2, key=key),
    IMAGES,
    lambda module, x: jax.vmap(module)(x),
)
_equinox(
    "Equinox attention",
    lambda key: eqx.nn.MultiheadAttention(2, WIDTH, key=key),
    TOKENS,
    lambda module, x: jax.vmap(lambda row: module(row, row, row))(x),
)


def _lstm_of_rows(module, x):
    def of_row(row):
        state = (jnp.zeros(3), jnp.zeros(3))
        return jax.lax.scan(lambda s, t: (module(t, s), None), state, row)[0][0]

    return jax.vmap(of_row)(x)


_equinox(
    "Equinox LSTM",
    lambda key: eqx.nn.LSTMCell(WIDTH, 3, key=key),
    TOKENS,
    _lstm_of_rows,
)


# Attention.


def _heads(x, num_heads=2):
    return x.reshape(*x.shape[:-1], num_heads, -1)


@model("dot_product_attention")
def _(w, rng, x, ids):
    q = _heads(x @ w)
    return square(jax.nn.dot_product_attention(q, q, q))


@model("grouped queries, causal")
def _(w, rng, x, ids):
    q, kv = _heads(x @ w), _heads(x @ w[:, :2], 1)
    return square(jax.nn.dot_product_attention(q, kv, kv, is_causal=True))


@model("attention with biases by distance (ALiBi)")
def _(w, rng, x, ids):
    q = _heads(x @ w)
    distance = jnp.arange(SEQ)[:, None] - jnp.arange(SEQ)[None]
    bias = -jnp.abs(distance)[None, None] * jnp.array([0.5, 0.25])[None, :, None, None]
    mask = (ids > 0)[:, None, None, :]
    return square(jax.nn.dot_product_attention(q, q, q, bias=bias, mask=mask))


@model("attention with sequence lengths")
def _(w, rng, x, ids):
    q = _heads(x @ w)
    lengths = 1 + ids[:, 0] % SEQ
    return square(
        jax.nn.dot_product_attention(
            q, q, q, query_seq_lengths=lengths, key_value_seq_lengths=lengths
        )
    )


@model("attention in a local window")
def _(w, rng, x, ids):
    q = _heads(x @ w)
    return square(jax.nn.dot_product_attention(q, q, q, local_window_size=(1, 0)))


@model("rotary position embedding")
def _(w, rng, x, ids):
    angles = jnp.arange(SEQ)[:, None] / 10 ** jnp.arange(2)[None]
    a, b = jnp.split(x @ w, 2, axis=-1)
    q = jnp.concatenate(
        [a * jnp.cos(angles)[None] - b * jnp.sin(angles)[None], b], axis=-1
    )
    return square(jax.nn.softmax(q @ q.mT) @ x)


@model("relative position bias from a table")
def _(w, rng, x, ids):
    distance = jnp.arange(SEQ)[:, None] - jnp.arange(SEQ)[None]
    bias = w[0][jnp.clip(distance + 1, 0, WIDTH - 1)]
    return square(jax.nn.softmax(x @ x.mT + bias[None]) @ x)


@model("linear attention")
def _(w, rng, x, ids):
    q = jax.nn.elu(x @ w) + 1
    state = jnp.cumsum(jnp.einsum("bsd,bse->bsde", q, x), axis=1)
    return square(jnp.einsum("bsd,bsde->bse", q, state))


@model("key-value cache by dynamic_update_slice")
def _(w, rng, x, ids):
    cache = jnp.zeros((x.shape[0], SEQ, WIDTH))

    def step(cache, i):
        now = jax.lax.dynamic_slice_in_dim(x, i, 1, axis=1) @ w
        cache = jax.lax.dynamic_update_slice(cache, now, (0, i, 0))
        return cache, jax.nn.softmax(now @ cache.mT) @ cache

    return square(jax.lax.scan(step, cache, jnp.arange(SEQ))[1].swapaxes(0, 1))


@model("key-value cache by .at[:, i].set")
def _(w, rng, x, ids):
    cache = jnp.zeros((x.shape[0], SEQ, WIDTH))
    for i in range(SEQ):
        cache = cache.at[:, i].set(jnp.tanh(x[:, i] @ w + cache.sum(1)))
    return square(cache)


@model("key-value cache by .at[arange, position].set")
def _(w, rng, x, ids):
    cache = jnp.zeros((x.shape[0], CLASSES, WIDTH))
    rows = jnp.arange(x.shape[0])
    for i in range(SEQ):
        cache = cache.at[rows, ids[:, i]].set(jnp.tanh(x[:, i] @ w + cache.sum(1)))
    return square(cache)


@model("heads in front of the rows")
def _(w, rng, x, ids):
    q = jnp.einsum("bshd->hbsd", _heads(x @ w)).reshape(-1, SEQ, WIDTH // 2)
    y = jax.nn.softmax(q @ q.mT) @ q
    return square(jnp.einsum("hbsd->bshd", y.reshape(2, -1, SEQ, WIDTH // 2)))


# Mixtures, sequences, structure.


@model("mixture of experts, the best two")
def _(w, rng, x, ids):
    gates, chosen = jax.lax.top_k(jax.nn.softmax(x @ w), 2)
    outputs = jnp.einsum("bsd,edf->bsef", x, jnp.stack([w, w.T, 2 * w, w @ w]))
    taken = jnp.take_along_axis(outputs, chosen[..., None], axis=2)
    return square(jnp.sum(taken * gates[..., None], axis=2))


@model("mixture of experts with a capacity for each row")
def _(w, rng, x, ids):
    gates = jax.nn.softmax(x @ w)
    best = jax.nn.one_hot(jnp.argmax(gates, -1), WIDTH)
    place = jnp.cumsum(best, axis=1) * best
    dispatch = best[..., None] * jax.nn.one_hot((place - 1).astype(int), 2)
    sent = jnp.einsum("bsec,bsd->becd", dispatch, x) @ w
    return square(jnp.einsum("bsec,becd->bsd", dispatch * gates[..., None], sent))


@model("mixture of experts by ragged_dot of each row")
def _(w, rng, x, ids):
    first = 1 + ids[:, 0] % 2
    sizes = jnp.stack([first, SEQ - first], axis=-1)
    experts = jnp.broadcast_to(jnp.stack([w, w.T]), (x.shape[0], 2, WIDTH, WIDTH))
    return square(jax.vmap(jax.lax.ragged_dot)(x, experts, sizes))


@model("state space model by associative_scan")
def _(w, rng, x, ids):
    decay = jnp.broadcast_to(jax.nn.sigmoid(w[0]), x.shape)

    def combine(a, b):
        return a[0] * b[0], b[0] * a[1] + b[1]

    return square(jax.lax.associative_scan(combine, (decay, x @ w), axis=1)[1])


@model("long convolution by fft")
def _(w, rng, x, ids):
    kernel = jnp.fft.rfft(w[:SEQ], n=2 * SEQ, axis=0)
    y = jnp.fft.irfft(jnp.fft.rfft(x, n=2 * SEQ, axis=1) * kernel[None], axis=1)
    return square(y[:, :SEQ])


@model("fourier mixing")
def _(w, rng, x, ids):
    return square(jnp.fft.fft2(x @ w, axes=(1, 2)).real)


@model("dynamics with checkpoints by name")
def _(w, rng, x, ids):
    @partial(
        jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names("state")
    )
    def step(x, _):
        return checkpoint_name(jnp.tanh(x @ w), "state") + jnp.sin(x), None

    return square(jax.lax.scan(step, x, None, length=2)[0])


@model("fori_loop")
def _(w, rng, x, ids):
    return square(jax.lax.fori_loop(0, 2, lambda _, x: x + jnp.tanh(x @ w), x))


@model("graph of each row")
def _(w, rng, x, ids):
    edges = jax.nn.one_hot(ids % SEQ, SEQ)
    degree = jnp.maximum(edges.sum(1, keepdims=True), 1)
    return square(jnp.tanh((edges / degree).mT @ (x @ w)))


@model("sums over segments of each row")
def _(w, rng, x, ids):
    sums = jax.vmap(partial(jax.ops.segment_sum, num_segments=CLASSES))(x @ w, ids)
    return square(jnp.sin(sums))


@model("tokens of each row selected")
def _(w, rng, x, ids):
    best = jnp.argsort(jnp.sum(x @ w, -1), axis=1)[:, :2]
    return square(jnp.take_along_axis(x @ w, best[..., None], axis=1))


@model("vmap with dynamic_slice")
def _(w, rng, x, ids):
    def of_row(x, ids):
        return jax.lax.dynamic_slice_in_dim(x @ w, ids[0] % 2, 2)

    return square(jax.vmap(of_row)(x, ids))


@model("vmap with .at[i].set")
def _(w, rng, x, ids):
    return square(
        jax.vmap(lambda x, i: (x @ w).at[i % SEQ].set(2 * x[0]))(x, ids[:, 0])
    )


@model("vmap with several .at[i].set")
def _(w, rng, x, ids):
    return square(
        jax.vmap(lambda x, i: (x @ w).at[i % SEQ].set(jnp.sin(x @ w)))(x, ids)
    )


@model("vmap with cond and switch")
def _(w, rng, x, ids):
    def of_row(x, i):
        x = jax.lax.cond(i > 2, jnp.sin, jnp.cos, x @ w)
        return jax.lax.switch(i % 3, [jnp.tanh, jnp.exp, jnp.square], x)

    return square(jax.vmap(of_row)(x, ids[:, 0]))


@model("derivatives inside of the loss")
def _(w, rng, x, ids):
    def energy(row):
        return jnp.sum(jnp.sin(row @ w))

    return square(jax.vmap(jax.grad(energy))(x))


@model("a layer of each row's own weights")
def _(w, rng, x, ids):
    return square(jnp.einsum("bsd,bde->bse", x, jnp.einsum("bd,de->bde", x[:, 0], w)))


@model("images sampled at points")
def _(w, rng, x, ids):
    points = [jnp.tanh(x[..., 0]) + 1, jnp.tanh(x[..., 1]) + 1]
    sample = jax.vmap(
        lambda x, *at: jax.scipy.ndimage.map_coordinates(x, list(at), order=1)
    )
    return square(sample(x @ w, *points))


@model("resized images")
def _(w, rng, x, ids):
    return square(jax.image.resize(x @ w, (x.shape[0], 5, 6), "linear"))


@model("Cholesky factors of each row")
def _(w, rng, x, ids):
    covariance = (x @ w).mT @ (x @ w) + jnp.eye(WIDTH)[None]
    factor = jnp.linalg.cholesky(covariance)
    white = jax.scipy.linalg.solve_triangular(factor, x[:, 0][..., None], lower=True)
    return square(white) + jnp.sum(jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)), -1)


@model("linear systems of each row")
def _(w, rng, x, ids):
    matrix = (x @ w).mT @ (x @ w) + jnp.eye(WIDTH)[None]
    return (
        square(jnp.linalg.solve(matrix, x[:, 0][..., None]))
        + jnp.linalg.slogdet(matrix)[1]
    )


@model("linear systems of one matrix")
def _(w, rng, x, ids):
    matrix = w @ w.T + jnp.eye(WIDTH)
    return square(jnp.linalg.solve(matrix, x[:, 0].T).T)


@model("density of one Gaussian")
def _(w, rng, x, ids):
    covariance = w[:2, :2] @ w[:2, :2].T + jnp.eye(2)
    log_p = partial(
        jax.scipy.stats.multivariate_normal.logpdf, mean=w[2, :2], cov=covariance
    )
    return jnp.negative(jax.vmap(log_p)(x[:, 0, :2]))


@model("singular values of each row")
def _(w, rng, x, ids):
    return jnp.sum(jnp.linalg.svd(x @ w, compute_uv=False), -1)


@model("two views in one batch")
def _(w, rng, x, ids):
    a, b = jnp.split(jnp.concatenate([x, jnp.flip(x, 1)]) @ w, 2)
    return square(a - jnp.sin(b))


def _two_views(x, tail):
    a, b = jnp.split(tail(jnp.concatenate([x, jnp.flip(x, 1)])), 2)
    return square(a - jnp.sin(b))


@model("two views, causal attention")
def _(w, rng, x, ids):
    def attend(y):
        causal = jnp.broadcast_to(jnp.tri(SEQ, dtype=bool), (len(y), SEQ, SEQ))
        return jax.nn.softmax(jnp.where(causal, y @ w @ y.mT, -1e9)) @ y

    return _two_views(x, attend)


@model("two views, class token")
def _(w, rng, x, ids):
    def attend(y):
        token = jnp.broadcast_to(w[None, :1], (len(y), 1, WIDTH))
        y = jnp.concatenate([token, y], axis=1)
        return jax.nn.softmax(y @ y.mT) @ y

    return _two_views(x, attend)


@model("two views, recurrent")
def _(w, rng, x, ids):
    def run(y):
        start = jnp.ones((len(y), WIDTH))

        def step(h, token):
            h = jnp.tanh(h @ w + token)
            return h, h

        states = jax.lax.scan(step, start, jnp.swapaxes(y, 0, 1))[1]
        return jnp.swapaxes(states, 0, 1)

    return _two_views(x, run)


@model("two views, labels")
def _(w, rng, x, ids):
    labels = jnp.concatenate([ids, ids])[..., None] % WIDTH
    return _two_views(
        x, lambda y: jnp.take_along_axis(jax.nn.log_softmax(y @ w), labels, axis=-1)
    )


@model("tokens first")
def _(w, rng, x, ids):
    y = jnp.tanh(jnp.swapaxes(x, 0, 1).reshape(-1, WIDTH) @ w).reshape(SEQ, -1, WIDTH)
    return square(jnp.swapaxes(y, 0, 1))


@model("optimization_barrier")
def _(w, rng, x, ids):
    return square(jnp.sin(jax.lax.optimization_barrier((x @ w, x))[0]))


@model("carries that change places")
def _(w, rng, x, ids):
    a, b = jax.lax.fori_loop(0, 3, lambda _, c: (c[1], c[0]), (1.0, 2.0))
    nan = jax.lax.fori_loop(0, 2, lambda _, c: jnp.nan, jnp.nan)
    return square(jnp.sin(x @ w)) * (a + b) + jnp.where(jnp.isnan(nan), 0, nan)


@model("products within a row")
def _(w, rng, x, ids):
    return square(jnp.cumprod(2 + x @ w, axis=1)) + square(jax.lax.cummax(x @ w, 1))


@model("associative_scan over four tokens")
def _(w, rng, x, ids):
    y = jnp.concatenate([x, x[:, :1]], axis=1) @ w
    return square(jax.lax.associative_scan(jnp.multiply, 1 + y / 4, axis=1))


@model("no tokens, flattened")
def _(w, rng, x, ids):
    nothing = jnp.sin(x[:, :0].reshape(0, x.shape[0]) * w[0, 0])
    return square(x @ w) + jnp.sum(nothing, axis=0)


@model("low-rank adaptation")
def _(w, rng, x, ids):
    return square(jnp.tanh(x @ (jnp.asarray(W) + w[:, :2] @ w[:2])))


@model("half precision with float32 accumulation")
def _(w, rng, x, ids):
    x = x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)
    return square(x.astype(jnp.float32))


@jax.custom_vjp
def _reversed_gradient(x):
    return x


_reversed_gradient.defvjp(lambda x: (x, None), lambda _, ct: (-ct,))


@jax.custom_vjp
def _clipped_gradient(x):
    return x


_clipped_gradient.defvjp(
    lambda x: (x, None), lambda _, ct: (jnp.clip(ct, -0.01, 0.01),)
)


@model("reversed gradient")
def _(w, rng, x, ids):
    return square(_reversed_gradient(jnp.sin(x @ w)))


@model("clipped gradient")
def _(w, rng, x, ids):
    return square(_clipped_gradient(jnp.sin(x @ w)))


@model("straight-through quantisation")
def _(w, rng, x, ids):
    y = x @ w
    return square(y + jax.lax.stop_gradient(jnp.round(y) - y))


# Losses.


def _logits(w, x):
    return jnp.concatenate([x @ w, jnp.sum(x, -1, keepdims=True)], axis=-1)


@model("CTC")
def _(w, rng, x, ids):
    lengths = 1 + ids[:, :1] % 2
    labels = 1 + ids[:, :2] % (CLASSES - 1)
    label_padding = (jnp.arange(2)[None] >= lengths).astype(jnp.float32)
    return optax.ctc_loss(_logits(w, x), jnp.zeros(ids.shape), labels, label_padding)


@model("focal loss")
def _(w, rng, x, ids):
    targets = jax.nn.one_hot(ids, CLASSES)
    return jnp.mean(optax.sigmoid_focal_loss(_logits(w, x), targets), (1, 2))


@model("label smoothing")
def _(w, rng, x, ids):
    targets = optax.smooth_labels(jax.nn.one_hot(ids, CLASSES), 0.1)
    return jnp.mean(optax.softmax_cross_entropy(_logits(w, x), targets), -1)


@model("triplet within a row")
def _(w, rng, x, ids):
    anchor, near, far = jnp.moveaxis(x @ w, 1, 0)
    return jax.nn.relu(square(anchor - near) - square(anchor - far) + 1)


@model("cosine and Huber")
def _(w, rng, x, ids):
    y = x @ w
    return jnp.mean(optax.cosine_distance(y, x), -1) + jnp.mean(
        optax.huber_loss(y, x), (1, 2)
    )


@model("masked language model")
def _(w, rng, x, ids):
    mask = (ids % 2).astype(jnp.float32)
    losses = classify(_logits(w, x), ids)
    return jnp.sum(losses * mask, -1) / jnp.maximum(jnp.sum(mask, -1), 1)


@model("labels by indexing with arange")
def _(w, rng, x, ids):
    log_p = jax.nn.log_softmax(_logits(w, x)[:, 0])
    return -log_p[jnp.arange(x.shape[0]), ids[:, 0]]


@model("last token by indexing with arange")
def _(w, rng, x, ids):
    last = ids[:, 0] % SEQ
    return square((x @ w)[jnp.arange(x.shape[0]), last])


@model("distillation and sigmoid")
def _(w, rng, x, ids):
    logits = _logits(w, x)
    teacher = jax.nn.softmax(jax.lax.stop_gradient(logits) * 2)
    kl = optax.kl_divergence(jax.nn.log_softmax(logits), teacher)
    targets = (ids > 2).astype(jnp.float32)
    return jnp.mean(
        kl + optax.sigmoid_binary_cross_entropy(logits[..., 0], targets), -1
    )


@model("contrast with a row's own negatives")
def _(w, rng, x, ids):
    y = x @ w
    return classify(jnp.einsum("bd,bsd->bs", y[:, 0], y), jnp.zeros(x.shape[0], int))


@model("variational autoencoder")
def _(w, rng, x, ids):
    mean, log_std = jnp.split(x @ w, 2, axis=-1)
    noise = 0 if rng is None else jax.random.normal(rng, mean.shape)
    return (
        square(mean + jnp.exp(log_std) * noise)
        + square(mean)
        - jnp.mean(log_std, (1, 2))
    )


@model("diffusion with a time for each row")
def _(w, rng, x, ids):
    rng = jax.random.key(0) if rng is None else rng
    time = jax.random.uniform(rng, (x.shape[0], 1, 1))
    noise = jax.vmap(lambda key: jax.random.normal(key, (SEQ, WIDTH)))(
        jax.random.split(rng, x.shape[0])
    )
    return square((x * time + noise * (1 - time)) @ w - noise)


@model("dropout in jax.checkpoint")
def _(w, rng, x, ids):
    @jax.checkpoint
    def layer(x):
        kept = True if rng is None else jax.random.bernoulli(rng, 0.5, x.shape)
        return jnp.tanh(jnp.where(kept, x, 0) @ w)

    return square(layer(layer(x)))


@model("conditional random field")
def _(w, rng, x, ids):
    scores = x @ w

    def step(alpha, score):
        return jax.nn.logsumexp(alpha[..., None] + w[None], axis=1) + score, None

    alpha, _ = jax.lax.scan(step, scores[:, 0], jnp.swapaxes(scores[:, 1:], 0, 1))
    path = jnp.take_along_axis(scores, ids[..., None] % WIDTH, axis=-1)
    return jax.nn.logsumexp(alpha, axis=-1) - jnp.sum(path, (1, 2))


@model("quantile by sorting a row")
def _(w, rng, x, ids):
    return jnp.median(jnp.square(x @ w), axis=(1, 2)) + square(jnp.sort(x @ w, axis=1))


@model("weight decay in the loss")
def _(w, rng, x, ids):
    return square(x @ w) + 0.1 * jnp.sum(jnp.square(w))


@model("mean of all losses, reported but unused")
def _(w, rng, x, ids):
    losses = square(x @ w)
    jax.debug.callback(lambda mean: None, jnp.mean(losses))
    return losses


@model("Gaussian mixture density")
def _(w, rng, x, ids):
    y = x @ w
    log_p = -jnp.square(y[..., None, :] - w[None, None]).sum(-1) + y
    return -jnp.mean(jax.nn.logsumexp(log_p, axis=-1), -1)


@model("padded, rolled and reversed within a row")
def _(w, rng, x, ids):
    y = jnp.pad(x @ w, ((0, 0), (1, 1), (0, 0)))
    return square(jnp.roll(y, 1, axis=1)[:, ::-1] * y)
