"""The size of each example's own gradient."""

import jax
import jax.numpy as jnp

from attent_jax._checks import check_count, check_per_example, leading_size
from attent_jax._factories import described
from attent_jax._trainable import merge_params, partition_params
from attent_jax.scores._dtypes import at_least_float32
from attent_jax.scores._row_chunks import RowChunks
from attent_jax.typing import LossFn, ScoreFn, Trainable


@described
def gradient_norm(
    loss_fn: LossFn,
    microbatch_size: int | None = None,
    *,
    trainable: Trainable = True,
) -> ScoreFn:
    """‖∂L_i/∂θ‖₂ over the trained parameters, for each example i by itself.

    The loss is differentiated on batches of one, vmapped. `rng` is the same for all
    examples.

    Args:
      loss_fn: `(params, rng, batch) -> [batch]`. The loss of an example must not
        depend on the others of the batch.
      microbatch_size: how many examples' gradients are held in memory at once. None:
        those of the whole batch. On a mesh choose a multiple of the number of devices,
        which then share each microbatch.
      trainable: which parameters θ are: True for all, a pytree prefix of bools, or a
        function of a leaf's path; see `training.partition_params`.

    Returns:
      `(params, rng, batch) -> [batch]`, accumulated in float32 at least.

    Raises:
      TypeError, ValueError: for a microbatch_size that is not an integer >= 1; from
        the score, if `loss_fn` does not return one loss per example, if a trained
        leaf is not floating point, or if `trainable` does not fit the parameters.

    Example:
      >>> import jax.numpy as jnp, attent_jax
      >>> score = attent_jax.scores.gradient_norm(
      ...     lambda w, rng, batch: (batch @ w) ** 2 / 2)
      >>> score(jnp.array([1.0, 1.0]), None, jnp.array([[3.0, 4.0], [0.0, 1.0]]))
      Array([35.,  1.], dtype=float32)

    Reference: Paul et al., Deep Learning on a Data Diet (NeurIPS 2021), def. 2 (GraNd).
    """
    if microbatch_size is not None:
        microbatch_size = check_count("microbatch_size", microbatch_size)

    def score(params, rng, batch):
        """`(params, rng, batch) -> [batch]`, the norm of each example's gradient."""
        trained, frozen = partition_params(params, trainable)

        def norm(example):
            def loss_of(trained):
                one = jax.tree.map(lambda leaf: leaf[None], example)
                losses = loss_fn(merge_params(trained, frozen), rng, one)
                check_per_example("loss_fn", losses, 1)
                return losses[0]

            gradients = jax.tree.leaves(jax.grad(loss_of)(trained))
            return jnp.sqrt(sum(map(_squared_norm, gradients)))

        num_examples = leading_size("batch", batch)
        chunks = RowChunks.of(num_examples, microbatch_size or num_examples)
        split = chunks.split(batch)
        norms = jax.lax.map(
            lambda number: jax.vmap(norm)(chunks.take(split, number)),
            jnp.arange(chunks.num_chunks, dtype=jnp.int32),
        )
        return chunks.join(norms)

    return score


def _squared_norm(leaf):
    return jnp.sum(jnp.square(at_least_float32(leaf)))
