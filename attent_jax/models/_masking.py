"""Which tokens a masked autoencoder sees."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import prng_key
from jaxtyping import Array, Bool, Int, Integer, Key

from attent_jax._checks import check_count, check_number, check_rng


class TokenMask(NamedTuple):
    """The tokens that an encoder sees, for each example.

    Tokens are numbered over all modalities, one after the other.
    """

    visible: Int[Array, "batch visible"]
    """`[batch, num_visible]` the visible tokens, in the encoder's order."""
    places: Int[Array, "batch tokens"]
    """`[batch, num_tokens]` each token's place in that order; `num_visible` or more
    where a token is masked."""

    @property
    def is_visible(self) -> Bool[Array, "batch tokens"]:
        """`[batch, num_tokens]` which tokens are visible."""
        return self.places < self.visible.shape[1]


def example_rngs(
    rng: jax.Array, ids: Integer[Array | np.ndarray, "batch"]
) -> Key[Array, "batch"]:
    """A key for each example, which does not depend on its place in a batch.

    Args:
      rng: one for all. A fixed one gives every example a mask of its own, the same in
        every pass.
      ids: `[batch]` the examples' stable ids.

    Returns:
      `[batch]` keys.

    Raises:
      TypeError, ValueError: if rng is not a single typed key.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> rngs = attent_jax.models.example_rngs(jax.random.key(0), jnp.array([7, 3]))
      >>> again = attent_jax.models.example_rngs(jax.random.key(0), jnp.array([3]))
      >>> bool(rngs[1] == again[0])
      True
    """
    check_rng("rng", rng)
    ids = jnp.asarray(ids).astype(jnp.uint32)
    return jax.vmap(jax.random.fold_in, (None, 0))(rng, ids)


def dirichlet_masks(
    rngs: Key[Array, "batch"],
    num_tokens: Sequence[int],
    num_visible: int,
    alpha: float = 1.0,
) -> TokenMask:
    """Draw which tokens of several modalities are visible.

    Each example draws its modalities' shares from a Dirichlet distribution, and the
    tokens of a modality uniformly. Shares are rounded to whole tokens by Webster's
    method: the modality with the largest share / (count + ½) gets the next token. So
    the number of visible tokens is exact, and a modality that has no token left gives
    its share to the others.

    Args:
      rngs: `[batch]` a key for each example, e.g. of `example_rngs` or
        `jax.random.split(rng, batch)`.
      num_tokens: of each modality.
      num_visible: of all modalities, for each example.
      alpha: the concentration. 1: every division into shares is as likely. Less: most
        examples show one modality. More: equal shares.

    Returns:
      A `TokenMask` of exactly `num_visible` tokens for each example.

    Raises:
      TypeError: if rngs is not an array of typed keys.
      ValueError: if num_visible is not in [1, sum(num_tokens)], or alpha not positive.

    Example:
      >>> import jax, attent_jax
      >>> rngs = jax.random.split(jax.random.key(0), 5)
      >>> mask = attent_jax.models.dirichlet_masks(rngs, [16, 16, 16], num_visible=8)
      >>> mask.visible.shape, mask.is_visible.sum(axis=1).tolist()
      ((5, 8), [8, 8, 8, 8, 8])

    Reference: Bachmann et al., MultiMAE (ECCV 2022), section 3.2.
    """
    dtype = getattr(rngs, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, prng_key) or rngs.ndim != 1:
        raise TypeError(
            f"rngs must be an array [batch] of typed keys, got "
            f"{getattr(rngs, 'shape', type(rngs).__name__)} of {dtype}: pass e.g. "
            f"jax.random.split(rng, batch), or example_rngs(rng, ids)."
        )
    counts = [check_count("num_tokens", count) for count in num_tokens]
    num_visible = check_count("num_visible", num_visible, maximum=sum(counts))
    alpha = check_number("alpha", alpha, low=0, low_excluded=True)

    def one(rng):
        share_rng, *token_rngs = jax.random.split(rng, 1 + len(counts))
        # Up to a constant, as all that counts is their order.
        log_shares = jax.random.loggamma(share_rng, alpha, (len(counts),))
        turns = []
        for token_rng, count, log_share in zip(
            token_rngs, counts, log_shares, strict=True
        ):
            number = jax.random.permutation(token_rng, count).astype(log_share.dtype)
            turns.append(jnp.log(number + 0.5) - log_share)
        order = jnp.argsort(jnp.concatenate(turns))
        return TokenMask(order[:num_visible], jnp.argsort(order))

    return jax.vmap(one)(rngs)


def all_visible(batch_size: int, num_tokens: int) -> TokenMask:
    """The mask under which every token is visible."""
    places = jnp.broadcast_to(jnp.arange(num_tokens), (batch_size, num_tokens))
    return TokenMask(places, places)
