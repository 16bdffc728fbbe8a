"""Selection that looks at no score: the control of every comparison."""

import jax
import jax.numpy as jnp

from attent_jax._checks import check_rng
from attent_jax._partition import largest
from attent_jax.selectors._selection import check_scores, select_marked
from attent_jax.typing import SelectFn


def uniform() -> SelectFn:
    """Draw examples uniformly without replacement: the paper's *Random*.

    Returns:
      `(rng, scores[pool], num_selected) -> Selection`; of the scores only the number
      counts.

    Raises:
      ValueError, TypeError: from the selector as in `top_k`.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> select = attent_jax.selectors.uniform()
      >>> selection = select(jax.random.key(0), jnp.zeros(8), 3)
      >>> int(selection.num_selected), sorted(selection.indices.tolist())
      (3, [0, 1, 2, 3, 4, 5, 6, 7])
    """

    def select(rng, scores, num_selected):
        check_rng("rng", rng)
        num_selected = check_scores(scores, num_selected)
        # Half of the bits, so that no key is the largest of its type.
        keys = jax.random.bits(rng, scores.shape, jnp.uint32) >> 1
        return select_marked(largest(num_selected, keys), num_selected)

    return select
