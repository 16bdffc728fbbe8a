"""Contractions of two sets of sequences to kernels: full, traced and pooled.

The formulas are in `theory.attention_ntk`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory._attention_layer import AttentionParams, Tokens, attention_outputs


class AttentionKernel(NamedTuple):
    """The ANTK by contribution; each part is positive semi-definite."""

    q: Float[Array, "n m ..."]
    """Contribution of the queries' weights."""
    k: Float[Array, "n m ..."]
    """Contribution of the keys' weights."""
    v: Float[Array, "n m ..."]
    """Contribution of the values' weights."""
    o: Float[Array, "n m ..."]
    """Contribution of the output projection; 0 without one."""

    @property
    def total(self) -> Float[Array, "n m ..."]:
        """The ANTK of all weights: the sum of the contributions."""
        return self.q + self.k + self.v + self.o


def full(
    params: AttentionParams, causal: bool, a: Tokens, b: Tokens
) -> AttentionKernel:
    """Kernels between all outputs of all tokens, `[n, m, s, t, p, p]`."""

    def row(tokens) -> tuple[Array, Array]:
        """The large parts, for one sequence of x1: faster, as it fits the cache."""
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


def trace(
    params: AttentionParams, causal: bool, a: Tokens, b: Tokens
) -> AttentionKernel:
    """Kernels between tokens, the mean over equal outputs, `[n, m, s, t]`."""
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


def pool(
    params: AttentionParams, causal: bool, a: Tokens, b: Tokens
) -> AttentionKernel:
    """Kernels of the outputs' mean over tokens, `[n, m, p, p]`."""
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


def _is_cheaper_by_pairs(a: Tokens, b: Tokens) -> bool:
    """Whether the pairwise contraction is faster, as it is for few tokens.

    By FLOPs: small contractions run at a third of the rate of one large product.
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
            return attention_outputs(layer, sequence[None], causal)[0].mean(axis=0)

        by_sequence = jax.vmap(jax.jacrev(pooled, (0, 1)), (None, None, 0))
        return by_sequence(params.w_q, params.w_k, x)

    first = jacobians(x1)
    second = first if x2 is None else jacobians(x2)
    q, k = (
        jnp.einsum("nchai,mdhai->nmcd", one, other)
        for one, other in zip(first, second, strict=True)
    )
    return q, k


def _pool_pairs(a: Tokens, b: Tokens) -> tuple[Array, Array]:
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
