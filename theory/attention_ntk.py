"""The ANTK of self-attention in closed form, by contribution.

There are n and m sequences of s and t tokens with D features. The H heads have keys of
size k and values of size e, and there are p outputs per token. Per head,

    Q = S W_Q, K = S W_K, V = S W_V, P = softmax(Q Kᵀ / √k), U = V W_O, Y = P U.

The softmax enters the kernel through two covariances under the attention P_j of token
j. Both vanish where attention saturates on one token, but not where it is uniform.

    M_jca = Cov_{l ~ P_j}(U_lc, S_la),    ω_jci = Cov_{l ~ P_j}(U_lc, K_li)

With them, summed over heads (primes denote the second sequence),

    Θ_Q[j, l, c, c'] = (S_j · S'_l) (ω_jc · ω'_lc') / k
    Θ_K[j, l, c, c'] = (Q_j · Q'_l) (M_jc · M'_lc') / k
    Θ_V[j, l, c, c'] = (G_j · G'_l) (W_Oᵀ W_O)_cc',    G = P S
    Θ_O[j, l, c, c'] = (F_j · F'_l) δ_cc',             F = P V.

The paper (Sec. 3) defines the kernel. These closed forms are derived here.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory import _attention_contractions
from theory._attention_contractions import AttentionKernel
from theory._attention_layer import AttentionParams, attention_outputs, tokens_of
from theory._checks import check_fits
from theory.layout import blockwise

__all__ = ["AttentionKernel", "AttentionParams", "attention", "attention_ntk"]

Readout = Literal["full", "trace", "pool"]
_READOUTS = {
    "full": _attention_contractions.full,
    "trace": _attention_contractions.trace,
    "pool": _attention_contractions.pool,
}


def attention(
    params: AttentionParams, x: Float[Array, "n s D"], *, causal: bool = False
) -> Float[Array, "n s p"]:
    """Softmax self-attention, summed over heads after their output projections.

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
    return attention_outputs(params, x, causal)


def attention_ntk(
    params: AttentionParams,
    x1: Float[Array, "n s D"],
    x2: Float[Array, "m t D"] | None = None,
    *,
    causal: bool = False,
    readout: Readout = "full",
    batch_size: int | None = None,
) -> AttentionKernel:
    """The ANTK of `attention` in closed form, without the Jacobian of the tokens.

    Besides the result it holds H·s·p·(D + k) numbers per sequence. For "pool" it holds
    H·p·s² unless sequences are short, because it uses the derivatives of the pooled
    outputs by W_Q and W_K. `batch_size` bounds both. Works under jit, vmap and grad.

    Args:
      params: the layer's weights.
      x1: `[n, s, D]` sequences.
      x2: `[m, t, D]` sequences, possibly of another length. None: x1.
      causal: as in `attention`.
      readout: which kernel. "full": between all outputs of all tokens. "trace": between
        tokens, the mean over equal outputs. "pool": of the mean over tokens.
      batch_size: number of sequences of a block, in rows and columns; bounds the memory
        besides the result. None: all at once.

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
        first = tokens_of(params, x1, causal)
        second = first if x2 is None else tokens_of(params, x2, causal)
        return contract(params, causal, first, second)

    if batch_size is None:
        return kernel_fn(x1, x2)
    return blockwise(kernel_fn, x1, x2, batch_size)


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
