"""Self-attention, and what its kernel needs from each sequence."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class AttentionParams(NamedTuple):
    """The weights of a self-attention layer, without biases."""

    w_q: Float[Array, "H D k"]
    """`[H, D, k]`"""
    w_k: Float[Array, "H D k"]
    """`[H, D, k]`"""
    w_v: Float[Array, "H D e"]
    """`[H, D, e]`"""
    w_o: Float[Array, "H e p"] | None = None
    """`[H, e, p]`; None (only for one head): the values are the outputs, p = e."""


class Tokens(NamedTuple):
    """What the kernel needs from the sequences; 1/√k is split over q and omega."""

    x: Float[Array, "n s D"]
    q: Float[Array, "H n s k"]
    weights: Float[Array, "H n s s"]
    u: Float[Array, "H n s p"]
    m: Float[Array, "H n s p D"]
    omega: Float[Array, "H n s p k"]
    g: Float[Array, "H n s D"]
    f: Float[Array, "H n s e"]


def attend(params: AttentionParams, x: Float[Array, "n s D"], causal: bool):
    """Scaled queries, keys, attention weights P and each token's U."""
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


def attention_outputs(params: AttentionParams, x: Array, causal: bool):
    """Y, the heads' outputs summed, `[n, s, p]`."""
    _, _, weights, outputs = attend(params, x, causal)
    return jnp.einsum("hnjl,hnlc->njc", weights, outputs)


def tokens_of(params: AttentionParams, x: Array, causal: bool) -> Tokens:
    q, keys, weights, u = attend(params, x, causal)
    g = jnp.einsum("hnjl,nla->hnja", weights, x)
    # A shift does not change covariances; centring avoids cancellation in float32.
    u = u - u.mean(axis=2, keepdims=True)
    centred = jnp.broadcast_to(x - x.mean(axis=1, keepdims=True), (len(u), *x.shape))
    return Tokens(
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
