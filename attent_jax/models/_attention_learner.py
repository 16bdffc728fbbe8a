"""The learner of the paper's theory: one self-attention layer."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class AttentionLearner(nn.Module):
    """f(S) = softmax(S W_Q (S W_K)ᵀ / √k) S W_V, heads joined by W_O; no biases.

    With one head and without `num_outputs` it is the paper's single-layer learner. With
    `num_outputs` the heads are mixed into that many outputs per token.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> model = attent_jax.models.AttentionLearner(width=8)
      >>> tokens = jnp.ones((2, 5, 3))
      >>> params = jax.jit(model.init)(jax.random.key(0), tokens)
      >>> model.apply(params, tokens).shape
      (2, 5, 8)

    Reference: Nonparametric Teaching of Attention Learners (arXiv 2602.20461), eq. 1.
    """

    width: int
    """k, per head: of queries, keys and values."""
    num_heads: int = 1
    num_outputs: int | None = None
    causal: bool = False

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "batch seq features"],
        mask: Bool[Array, "batch seq"] | None = None,
    ) -> Float[Array, "batch seq outputs"]:
        """Per-token outputs; `mask` is true where a token may be attended to."""
        if self.num_outputs is None and self.num_heads > 1:
            raise ValueError(
                f"num_heads is {self.num_heads} without num_outputs: several heads "
                f"need an output projection; pass num_outputs."
            )
        heads = (self.num_heads, self.width)

        def project(name):
            return nn.DenseGeneral(heads, use_bias=False, name=name)(tokens)

        allowed = None
        if self.causal:
            allowed = nn.make_causal_mask(tokens[..., 0], dtype=bool)
        if mask is not None:
            allowed = nn.combine_masks(allowed, mask[:, None, None, :], dtype=bool)
        mixed = nn.dot_product_attention(
            project("query"), project("key"), project("value"), mask=allowed
        )
        if self.num_outputs is None:
            return jnp.squeeze(mixed, axis=-2)
        return nn.DenseGeneral(
            self.num_outputs, axis=(-2, -1), use_bias=False, name="out"
        )(mixed)
