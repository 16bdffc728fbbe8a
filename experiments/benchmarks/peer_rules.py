"""Selection rules as published, for any learner that trains and scores batches."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from experiments.demo import BATCH_SIZE


class Learner(Protocol):
    """What a rule needs from a learner."""

    def step(
        self,
        ids: Int[np.ndarray, "batch"],
        done: float,
        weights: Float[np.ndarray, "batch"] | None = None,
    ) -> Float[np.ndarray, "batch"]:
        """Train on a batch when `done` of the training is; returns its losses."""
        ...

    def score(self, ids: Int[np.ndarray, "batch"]) -> Float[np.ndarray, "batch"]:
        """The losses, without training."""
        ...


Orders = Sequence[Int[np.ndarray, "pool"]]
"""The pool's ids as each epoch shuffles them."""
Rule = Callable[[Learner, Orders, np.random.Generator], None]
"""Trains the learner, choosing from each epoch's pass over the pool."""


def full(learner: Learner, orders: Orders, rng: np.random.Generator) -> None:
    """Train on every example in every epoch."""
    for epoch, order in enumerate(orders):
        for share, ids in _batches(order):
            learner.step(ids, (epoch + share) / len(orders))


def selective_backprop(
    learner: Learner, orders: Orders, rng: np.random.Generator
) -> None:
    """Selective-Backprop: score all examples, train on full batches of the kept ones.

    Jiang et al. (2019), arXiv 1910.00762, with β = 1 and a history of 1,024 losses.
    """
    recent, kept = deque(maxlen=1024), np.empty(0, int)
    for epoch, order in enumerate(orders):
        for share, ids in _batches(order):
            losses = learner.score(ids)
            recent.extend(losses)
            is_kept = rng.random(len(ids)) < keep_probability(losses, np.array(recent))
            kept = np.concatenate([kept, ids[is_kept]])
            if len(kept) >= BATCH_SIZE:
                learner.step(kept[:BATCH_SIZE], (epoch + share) / len(orders))
                kept = kept[BATCH_SIZE:]


def keep_probability(
    losses: Float[np.ndarray, "batch"],
    recent: Float[np.ndarray, "recent"],
    beta: float = 1.0,
) -> Float[np.ndarray, "batch"]:
    """Each loss's percentile among the recent ones (ties: their middle), to the β."""
    recent = np.sort(recent)
    below, up_to = (np.searchsorted(recent, losses, side) for side in ("left", "right"))
    return ((below + up_to) / (2 * len(recent))) ** beta


def infobatch(learner: Learner, orders: Orders, rng: np.random.Generator) -> None:
    """InfoBatch: randomly prune examples of low loss, and rescale the kept ones.

    Qin et al. (ICLR 2024), arXiv 2303.04947, with r = 0.5 and δ = 0.875: the
    epochs after that share, rounded down, are full. Losses are those of the last visit.
    """
    losses = np.full(len(orders[0]), np.inf, np.float32)
    for epoch, order in enumerate(orders):
        weights = np.ones_like(losses)
        if epoch < int(0.875 * len(orders)):
            weights = infobatch_weights(losses, rng)
        for share, ids in _batches(order[weights[order] > 0]):
            done = (epoch + share) / len(orders)
            losses[ids] = learner.step(ids, done, weights[ids])


def infobatch_weights(
    losses: Float[np.ndarray, "pool"], rng: np.random.Generator, r: float = 0.5
) -> Float[np.ndarray, "pool"]:
    """Below the mean loss: 0 with probability r, else 1/(1 − r); 1 above."""
    rescaled = np.where(rng.random(len(losses)) < r, 0, 1 / (1 - r))
    return np.where(losses < losses.mean(), rescaled, 1).astype(np.float32)


def _batches(ids: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """The ids in batches, each with the share of them that came before."""
    for start in range(0, len(ids), BATCH_SIZE):
        yield start / len(ids), ids[start : start + BATCH_SIZE]
