"""The ANTK of self-attention in closed form, by contribution.

Of n, m sequences of s, t tokens of D features, H heads have keys of size k and values
of size e, and p outputs a token. Per head,

    Q = S W_Q, K = S W_K, V = S W_V, P = softmax(Q Kᵀ / √k), U = V W_O, Y = P U.

Two covariances under the attention P_j of token j say all that the softmax does to the
kernel. They are the importance that adapts it: both vanish where attention saturates on
one token, not where it is uniform.

    M_jca = Cov_{l ~ P_j}(U_lc, S_la),    ω_jci = Cov_{l ~ P_j}(U_lc, K_li)

and with them, heads summed (primes: the second sequence),

    Θ_Q[j, l, c, c'] = (S_j · S'_l) (ω_jc · ω'_lc') / k
    Θ_K[j, l, c, c'] = (Q_j · Q'_l) (M_jc · M'_lc') / k
    Θ_V[j, l, c, c'] = (G_j · G'_l) (W_Oᵀ W_O)_cc',    G = P S
    Θ_O[j, l, c, c'] = (F_j · F'_l) δ_cc',             F = P V.

The paper (Sec. 3) defines the kernel; these forms of it are this library's.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory._checks import check_fits
from theory.layout import blockwise

Readout = Literal["full", "trace", "pool"]


class AttentionParams(NamedTuple):
    """The weights of a self-attention layer, without biases."""

    w_q: Float[Array, "H D k"]
    """`[H, D, k]`"""
    w_k: Float[Array, "H D k"]
    """`[H, D, k]`"""
    w_v: Float[Array, "H D e"]
    """`[H, D, e]`"""
    w_o: Float[Array, "H e p"] | None = None
    """`[H, e, p]`; None, for one head only: the values are the outputs, p = e."""


class AttentionKernel(NamedTuple):
    """The ANTK by the weights it comes from; each part is positive semi-definite."""

    q: Float[Array, "n m ..."]
    """Of the queries' weights: how tokens move where they look."""
    k: Float[Array, "n m ..."]
    """Of the keys' weights: how tokens move who looks at them."""
    v: Float[Array, "n m ..."]
    """Of the values' weights."""
    o: Float[Array, "n m ..."]
    """Of the output projection; 0 without one."""

    @property
    def total(self) -> Float[Array, "n m ..."]:
        """The ANTK of all weights together."""
        return self.q + self.k + self.v + self.o


def attention(
    params: AttentionParams, x: Float[Array, "n s D"], *, causal: bool = False
) -> Float[Array, "n s p"]:
    """Softmax self-attention, heads summed through their output projections.

    Args:
      params: the layer's weights.
      x: `[n, s, D]` sequences of tokens.
      causal: let token j attend to tokens up to j only.

    Returns:
      `[n, s, p]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from theory.attention_ntk import AttentionParams, attention
      >>> w = jnp.ones((1, 3, 2))
      >>> attention(AttentionParams(w, w, w), jnp.ones((4, 5, 3))).shape
      (4, 5, 2)
    """
    _check(params, "x", x)
    _, _, weights, outputs = _attend(params, x, causal)
    return jnp.einsum("hnjl,hnlc->njc", weights, outputs)


def attention_ntk(
    params: AttentionParams,
    x1: Float[Array, "n s D"],
    x2: Float[Array, "m t D"] | None = None,
    *,
    causal: bool = False,
    readout: Readout = "full",
    batch_size: int | None = None,
) -> AttentionKernel:
    """The ANTK of `attention`, in closed form: no Jacobian of the tokens is held.

    Beside the result it holds H·s·p·(D + k) numbers per sequence, and for "pool", which
    takes the pooled outputs' derivatives by W_Q and W_K unless sequences are short,
    H·p·s²: `batch_size` bounds both. Works under jit, vmap and grad.

    Args:
      params: the layer's weights.
      x1: `[n, s, D]` sequences.
      x2: `[m, t, D]` sequences, of another length if you like. None: x1 again.
      causal: as in `attention`.
      readout: which kernel. "full": between all outputs of all tokens. "trace": between
        tokens, the mean over equal outputs. "pool": of the mean over tokens.
      batch_size: sequences of a block, in rows and columns; bounds the memory beside
        the result. None: all at once.

    Returns:
      Four kernels, each full `[n, m, s, t, p, p]`, trace `[n, m, s, t]` or pool
      `[n, m, p, p]`.

    Raises:
      ValueError: if shapes do not match, or the kernels do not fit into memory.

    Example:
      >>> import jax.numpy as jnp
      >>> from theory.attention_ntk import AttentionParams, attention_ntk
      >>> w = jnp.ones((1, 3, 2))
      >>> kernel = attention_ntk(
      ...     AttentionParams(w, w, w), jnp.ones((4, 5, 3)), readout="trace")
      >>> kernel.total.shape
      (4, 4, 5, 5)
    """
    if readout not in _READOUTS:
        raise ValueError(
            f"readout must be one of {', '.join(_READOUTS)}, got {readout!r}."
        )
    _check(params, "x1", x1)
    if x2 is not None:
        _check(params, "x2", x2)
    options = {"causal": causal, "readout": readout, "batch_size": batch_size}
    compute = functools.partial(_attention_ntk, **options)
    kernels = jax.eval_shape(compute, params, x1, x2)
    itemsize = kernels.q.dtype.itemsize
    check_fits(
        f"four kernels of shape {kernels.q.shape}",
        4 * kernels.q.size * itemsize,
        'use fewer sequences or readout="trace", or apply the kernel without holding '
        "it, by theory.empirical_ntk.ntk_vector_product",
    )
    num_heads, num_features, key_size = jnp.shape(params.w_q)
    num_outputs = jnp.shape(params.w_v if params.w_o is None else params.w_o)[2]
    for x in (x1, x1 if x2 is None else x2):
        num_sequences, num_tokens, _ = jnp.shape(x)
        rows = min(batch_size or num_sequences, num_sequences)
        size = num_tokens if readout == "pool" else num_features + key_size
        check_fits(
            f"the covariances of {rows} sequences",
            rows * num_heads * num_tokens * num_outputs * size * itemsize,
            "pass a smaller batch_size",
        )
    return compute(params, x1, x2)


@functools.partial(jax.jit, static_argnames=("causal", "readout", "batch_size"))
def _attention_ntk(params, x1, x2, causal, readout, batch_size) -> AttentionKernel:
    contract = _READOUTS[readout]

    def kernel_fn(x1: Array, x2: Array | None) -> AttentionKernel:
        first = _tokens(params, x1, causal)
        second = first if x2 is None else _tokens(params, x2, causal)
        return contract(params, causal, first, second)

    if batch_size is None:
        return kernel_fn(x1, x2)
    return blockwise(kernel_fn, x1, x2, batch_size)


class _Tokens(NamedTuple):
    """What the kernel needs of the sequences; 1/√k is shared by q and omega."""

    x: Float[Array, "n s D"]
    q: Float[Array, "H n s k"]
    weights: Float[Array, "H n s s"]
    u: Float[Array, "H n s p"]
    m: Float[Array, "H n s p D"]
    omega: Float[Array, "H n s p k"]
    g: Float[Array, "H n s D"]
    f: Float[Array, "H n s e"]


def _attend(params: AttentionParams, x: Float[Array, "n s D"], causal: bool):
    """Scaled queries, keys, attention weights P and what the heads output of each U."""
    q = jnp.einsum("nja,hai->hnji", x, params.w_q) * params.w_q.shape[-1] ** -0.5
    keys = jnp.einsum("nja,hai->hnji", x, params.w_k)
    logits = jnp.einsum("hnji,hnli->hnjl", q, keys)
    if causal:
        is_visible = jnp.tril(jnp.ones(logits.shape, bool))
        logits = jnp.where(is_visible, logits, -jnp.inf)
    u = jnp.einsum("nja,hae->hnje", x, params.w_v)
    if params.w_o is not None:
        u = jnp.einsum("hnje,hec->hnjc", u, params.w_o)
    return q, keys, jax.nn.softmax(logits), u


def _tokens(params: AttentionParams, x: Array, causal: bool) -> _Tokens:
    q, keys, weights, u = _attend(params, x, causal)
    g = jnp.einsum("hnjl,nla->hnja", weights, x)
    # Covariances do not feel a shift; centred, they do not cancel in float32 either.
    u = u - u.mean(axis=2, keepdims=True)
    centred = jnp.broadcast_to(x - x.mean(axis=1, keepdims=True), (len(u), *x.shape))
    return _Tokens(
        x=x,
        q=q,
        weights=weights,
        u=u,
        m=_covariance(weights, u, centred),
        omega=_covariance(weights, u, keys - keys.mean(axis=2, keepdims=True))
        * params.w_k.shape[-1] ** -0.5,
        g=g,
        f=jnp.einsum("hnja,hae->hnje", g, params.w_v),
    )


def _covariance(weights, u, z) -> Float[Array, "H n s p a"]:
    """Cov of u `[H, n, s, p]` and z `[H, n, s, a]` under each token's attention."""
    products = u[..., :, None] * z[..., None, :]
    mean = jnp.einsum("hnjl,hnlca->hnjca", weights, products)
    return mean - (weights @ u)[..., :, None] * (weights @ z)[..., None, :]


def _full(
    params: AttentionParams, causal: bool, a: _Tokens, b: _Tokens
) -> AttentionKernel:
    def row(tokens) -> tuple[Array, Array]:
        """The large parts, of one sequence of x1: what fits the cache is faster."""
        x, q, m, omega = tokens
        by_q = jnp.einsum("hjci,hmldi->mjlcd", omega, b.omega)
        by_k = _sum_over_heads(
            lambda q1, m1, q2, m2: (
                _expand(jnp.einsum("ji,mli->mjl", q1, q2))
                * jnp.einsum("jca,mlda->mjlcd", m1, m2)
            ),
            *(q, m, b.q, b.m),
        )
        return _expand(jnp.einsum("ja,mla->mjl", x, b.x)) * by_q, by_k

    by_sequence = (a.x, *(jnp.swapaxes(part, 0, 1) for part in (a.q, a.m, a.omega)))
    q, k = jax.lax.map(row, by_sequence)
    v = jnp.einsum("hnmjl,hcd->nmjlcd", _by_head(a.g, b.g), _output_gram(params))
    o = jnp.zeros_like(v)
    if params.w_o is not None:
        o = jnp.einsum("hnje,hmle->nmjl", a.f, b.f)
        o = _expand(o) * _identity(params, ndim=6)
    return AttentionKernel(q, k, v, o)


def _trace(
    params: AttentionParams, causal: bool, a: _Tokens, b: _Tokens
) -> AttentionKernel:
    num_outputs = a.u.shape[-1]
    norms = jnp.einsum("hcc->h", _output_gram(params)) / num_outputs
    weighted = norms[:, None, None, None] * a.g
    by_q = jnp.einsum("hnjci,hmlci->nmjl", a.omega, b.omega)
    by_k = _sum_over_heads(
        lambda q1, m1, q2, m2: (
            _token_gram(q1, q2) * jnp.einsum("njca,mlca->nmjl", m1, m2)
        ),
        *(a.q, a.m, b.q, b.m),
    )
    v = jnp.einsum("hnja,hmla->nmjl", weighted, b.g)
    o = jnp.zeros_like(v)
    if params.w_o is not None:
        o = jnp.einsum("hnje,hmle->nmjl", a.f, b.f)
    return AttentionKernel(
        _token_gram(a.x, b.x) * by_q / num_outputs, by_k / num_outputs, v, o
    )


def _pool(
    params: AttentionParams, causal: bool, a: _Tokens, b: _Tokens
) -> AttentionKernel:
    if _is_cheaper_by_pairs(a, b):
        q, k = _pool_pairs(a, b)
    else:
        q, k = _pool_jacobians(params, causal, a.x, None if b is a else b.x)
    g1, g2 = (
        jnp.einsum("hnl,nla->hna", tokens.weights.mean(axis=2), tokens.x)
        for tokens in (a, b)
    )
    v = jnp.einsum("hna,hma,hcd->nmcd", g1, g2, _output_gram(params))
    o = jnp.zeros_like(v)
    if params.w_o is not None:
        f1, f2 = (jnp.einsum("hna,hae->hne", g, params.w_v) for g in (g1, g2))
        o = _expand(jnp.einsum("hne,hme->nm", f1, f2)) * _identity(params, ndim=4)
    return AttentionKernel(q, k, v, o)


def _is_cheaper_by_pairs(a: _Tokens, b: _Tokens) -> bool:
    """Whether few tokens make the pairwise contraction the faster one, by FLOPs.

    Its contractions are small: they run at a third of the rate of one large product.
    """
    s, t = a.x.shape[1], b.x.shape[1]
    *_, p, num_features = a.m.shape
    size = a.q.shape[-1]
    by_pairs = (num_features + size) * (s * t * (1 + p) + t * p * p)
    return 3 * by_pairs < 2 * p * p * num_features * size


def _pool_jacobians(
    params: AttentionParams, causal: bool, x1: Array, x2: Array | None
) -> tuple[Array, Array]:
    """Gram matrices of each sequence's pooled derivatives by W_Q and by W_K."""

    def jacobians(x: Array):
        def pooled(w_q: Array, w_k: Array, sequence: Array) -> Array:
            layer = params._replace(w_q=w_q, w_k=w_k)
            return attention(layer, sequence[None], causal=causal)[0].mean(axis=0)

        by_sequence = jax.vmap(jax.jacrev(pooled, (0, 1)), (None, None, 0))
        return by_sequence(params.w_q, params.w_k, x)

    first = jacobians(x1)
    second = first if x2 is None else jacobians(x2)
    q, k = (
        jnp.einsum("nchai,mdhai->nmcd", one, other)
        for one, other in zip(first, second, strict=True)
    )
    return q, k


def _pool_pairs(a: _Tokens, b: _Tokens) -> tuple[Array, Array]:
    """Contract the tokens of each pair of sequences, one of x1 at a time."""

    def row(tokens):
        x, q, m, omega = tokens
        looking = jnp.einsum("ja,mla,hjci->hmlci", x, b.x, omega)
        looked_at = jnp.einsum("hji,hmli,hjca->hmlca", q, b.q, m)
        return (
            jnp.einsum("hmlci,hmldi->mcd", looking, b.omega),
            jnp.einsum("hmlca,hmlda->mcd", looked_at, b.m),
        )

    by_sequence = (a.x, *(jnp.swapaxes(part, 0, 1) for part in (a.q, a.m, a.omega)))
    q, k = jax.lax.map(row, by_sequence)
    num_pairs = a.x.shape[1] * b.x.shape[1]
    return q / num_pairs, k / num_pairs


_READOUTS = {"full": _full, "trace": _trace, "pool": _pool}


def _token_gram(a: Float[Array, "n s a"], b: Float[Array, "m t a"]):
    return jnp.einsum("nja,mla->nmjl", a, b)


_by_head = jax.vmap(_token_gram)


def _expand(gram: Float[Array, "*pairs"]) -> Float[Array, "*pairs 1 1"]:
    return gram[..., None, None]


def _output_gram(params: AttentionParams) -> Float[Array, "H p p"]:
    """W_Oᵀ W_O of each head."""
    if params.w_o is None:
        return jnp.eye(params.w_v.shape[-1], dtype=params.w_v.dtype)[None]
    return jnp.einsum("hec,hed->hcd", params.w_o, params.w_o)


def _identity(params: AttentionParams, ndim: int) -> Float[Array, "..."]:
    """δ_cc' as the last two of `ndim` axes."""
    num_outputs = (params.w_v if params.w_o is None else params.w_o).shape[-1]
    eye = jnp.eye(num_outputs, dtype=params.w_v.dtype)
    return eye.reshape(*[1] * (ndim - 2), num_outputs, num_outputs)


def _sum_over_heads(function, *by_head):
    """The sum of `function(*head)`, one head at a time."""

    def add(total, head):
        return total + function(*head), None

    first, rest = ([part[i] for part in by_head] for i in (0, slice(1, None)))
    return jax.lax.scan(add, function(*first), rest)[0]


def _check(params: AttentionParams, name: str, x: Array) -> None:
    w_q, w_k, w_v = map(jnp.shape, params[:3])
    if len(w_q) != 3 or w_q != w_k or len(w_v) != 3 or w_v[:2] != w_q[:2]:
        raise ValueError(
            f"params has w_q {w_q}, w_k {w_k}, w_v {w_v}: they must be [H, D, k], "
            f"[H, D, k] and [H, D, e]."
        )
    if params.w_o is None and w_q[0] != 1:
        raise ValueError(
            f"params has {w_q[0]} heads and no w_o: give it w_o [H, e, p], which makes "
            f"one output of theirs."
        )
    w_o = None if params.w_o is None else jnp.shape(params.w_o)
    if w_o is not None and (len(w_o) != 3 or w_o[:2] != w_v[::2]):
        raise ValueError(
            f"params has w_v {w_v} and w_o {w_o}: they must be [H, D, e] and [H, e, p]."
        )
    shape = jnp.shape(x)
    if len(shape) != 3 or shape[2] != w_q[1] or 0 in shape:
        raise ValueError(
            f"{name} has shape {shape}, but params are of {w_q[1]} features: pass "
            f"sequences [n, s, {w_q[1]}], none empty."
        )
