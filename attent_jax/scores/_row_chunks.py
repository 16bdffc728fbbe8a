"""A batch cut into chunks of rows, all of the same size."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, Shaped

from attent_jax.typing import Batch


class RowChunks(NamedTuple):
    """Chunk c takes rows c, c + num_chunks, c + 2 · num_chunks, and so on.

    Every device of a mesh that splits the batch then has an equal part of each chunk,
    if the number of devices divides both the batch and the largest size of a chunk.
    """

    num_examples: int
    num_chunks: int
    size: int

    @classmethod
    def of(cls, num_examples: int, max_size: int) -> "RowChunks":
        """As few chunks of at most `max_size` rows as possible, with little padding.

        The size is a multiple of what divides both, the number of devices included.
        """
        num_chunks = -(-num_examples // max_size)
        divisor = math.gcd(num_examples, max_size)
        size = -(-num_examples // (num_chunks * divisor)) * divisor
        return cls(num_examples, num_chunks, size)

    @property
    def num_padding(self) -> int:
        return self.size * self.num_chunks - self.num_examples

    def split(self, batch: Batch) -> Batch:
        """Leaves `[size, num_chunks, ...]`, padded with copies of the last row."""

        def split(leaf):
            leaf = jnp.asarray(leaf)
            if self.num_padding:
                shape = self.num_padding, *leaf.shape[1:]
                copies = jnp.broadcast_to(leaf[-1:], shape)
                leaf = jnp.concatenate([leaf, copies])
            return leaf.reshape(self.size, self.num_chunks, *leaf.shape[1:])

        return jax.tree.map(split, batch)

    def take(self, split: Batch, chunk: Int[Array, ""]) -> Batch:
        """The rows of one chunk, of leaves that `split` returned."""
        return jax.tree.map(
            lambda leaf: lax.dynamic_index_in_dim(leaf, chunk, 1, keepdims=False), split
        )

    def is_example(self, chunk: Int[Array, ""]) -> Bool[Array, "size"]:
        """Which rows of a chunk are no padding."""
        return (
            lax.iota(jnp.int32, self.size) * self.num_chunks + chunk < self.num_examples
        )

    def join(self, values: Shaped[Array, "chunks size"]) -> Shaped[Array, "batch"]:
        """The chunks' values in the order of the batch, without those of padding."""
        return values.swapaxes(0, 1).reshape(-1)[: self.num_examples]
