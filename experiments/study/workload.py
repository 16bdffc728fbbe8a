"""What is learnt, from what, and how it is judged."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, PyTree

from attent_jax import distributed
from attent_jax.data import Pool
from attent_jax.training import TrainState, score_pool
from attent_jax.typing import ApplyFn, Batch, LossFn, Params, ScoreFn


class Split(NamedTuple):
    """The data of one seed."""

    train: Pool
    held_out: Pool
    fingerprint: Any
    """JSON data that differs if the data do: a run does not continue on other data.
    Cheap: file sizes and dates, a generator's seed and version."""
    groups: Int[np.ndarray, "pool"] | None = None
    """`[pool]` each training example's group, for the method "balanced" and the figure
    of the examples taught."""


class Objective(NamedTuple):
    """The one measure that verdicts are about, declared before any run."""

    measure: str
    """Its name among the evaluation's results, such as "accuracy"."""
    unit: str
    """Of the measure and its differences, such as "%"."""
    margin: float
    """δ of non-inferiority, in that unit."""
    higher_is_better: bool = True
    reason: str = ""
    """Why this measure, in a sentence."""


class FinalEvaluation(NamedTuple):
    """An evaluation that takes many steps, such as fine-tuning or generation.

    It runs once, after training. Its state is saved between steps like training's.
    """

    num_steps: Callable[[Split], int]
    init: Callable[[jax.Array, Params, Split, Mesh], PyTree]
    """`(rng, trained params, split, mesh) -> state`, arrays only."""
    step: Callable[[jax.Array, PyTree, Params, Split, int], PyTree]
    """`(rng, state, trained params, split, number) -> state`; every step has its own
    key."""
    result: Callable[[PyTree, Split], dict[str, float]]
    """`(last state, split) -> measures`"""


def replicate(mesh: Mesh, state: PyTree) -> PyTree:
    """Every device holds the whole train state."""
    return jax.tree.map(lambda _: distributed.replicated(mesh), state)


class Workload(NamedTuple):
    """What is learnt, from what, and how it is judged.

    Its functions are compiled once for all methods and seeds: make one `Workload` and
    keep it.
    """

    name: str
    load: Callable[[int], Split]
    """`(seed) -> split`; every seed has its own."""
    num_examples: int
    """Of every seed's training pool."""
    example: PyTree
    """One training example, abstract: leaves `jax.ShapeDtypeStruct`."""
    init_params: Callable[[jax.Array], Params]
    """`(rng) -> params`, traceable, so that they are created where they belong."""
    loss_fn: LossFn
    """Gets a key in training and in scoring passes, for masks and dropout."""
    make_optimizer: Callable[[float, float], optax.GradientTransformation]
    """`(num_steps, learning_rate) -> optimizer`. Both are traced scalars, so that one
    compilation serves all methods; see `warmup_cosine`."""
    learning_rate: float
    """The peak, best for full training, found on seeds that are not reported."""
    evaluate: Callable[[Params, Pool, NamedSharding], dict[str, float]]
    """`(params, held_out, sharding) -> measures`; cheap, also during training."""
    objective: Objective
    batch_size: int
    score_batch_size: int
    score_cost: float = 1 / 3
    """Cost of scoring an example, in trained examples: F of F + B. B is 2 F, or F where
    the base is frozen (LoRA: ½)."""
    trainable: bool | Callable[[str], bool] = True
    """Which parameters train, by path."""
    shardings: Callable[[Mesh, PyTree], PyTree] = replicate
    """`(mesh, abstract train state) -> shardings`; `distributed.fsdp_shardings` splits
    large leaves."""
    fsdp: int | None = 1
    """Devices that large leaves are split over; None: all."""
    final_evaluate: FinalEvaluation | None = None
    learning_rates: tuple[tuple[str, float], ...] = ()
    """`(method, peak)` of the methods that have a better one of their own."""
    groups: tuple[str, ...] = ()
    """Names of the groups that a split has, if it has them."""
    outputs_fn: ApplyFn | None = None
    """The learner's outputs, for methods that score by them rather than by the loss."""
    output_loss_fn: Callable[[Array, Batch], Float[Array, "batch"]] | None = None
    """`(outputs, batch) -> [batch]`, the loss as a function of the outputs."""
    snapshot: Callable[[str, TrainState, Split], dict[str, np.ndarray]] | None = None
    """`(method, state, split) -> arrays` to keep of every evaluation of the first seed,
    for the report's pictures, such as reconstructions."""

    def learning_rate_of(self, method: str) -> float:
        """The method's peak learning rate."""
        return dict(self.learning_rates).get(method, self.learning_rate)

    def batch(self, size: int) -> Batch:
        """An abstract batch."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype),
            self.example,
        )


WARMUP_SHARE = 0.05


def warmup_cosine(
    num_steps: Float[Array, ""] | float,
    learning_rate: Float[Array, ""] | float,
    *,
    warmup_share: float = WARMUP_SHARE,
) -> optax.Schedule:
    """Linear warm-up to the peak, then cosine decay to 0 at `num_steps`.

    The same as `optax.warmup_cosine_decay_schedule`, for traced numbers too.
    """

    def schedule(step):
        done = jnp.asarray(step).astype(float) / num_steps
        warm = jnp.minimum(done / warmup_share, 1)
        cooled = jnp.maximum(done - warmup_share, 0) / (1 - warmup_share)
        return learning_rate * warm * (1 + jnp.cos(jnp.pi * cooled)) / 2

    return schedule


def measure_each(
    measure_fn: ScoreFn,
    params: Params,
    pool: Pool,
    *,
    batch_size: int,
    sharding: NamedSharding,
) -> Float[np.ndarray, "pool"]:
    """A measure of every example, on the host of every process.

    Args:
      measure_fn: `(params, rng=None, batch) -> [batch]`, one function for all calls.
      params: the learner's.
      pool: the held-out examples.
      batch_size: examples per call.
      sharding: a batch's.
    """
    measures = score_pool(
        measure_fn, params, pool, batch_size=batch_size, sharding=sharding
    )
    return np.asarray(multihost_utils.process_allgather(measures, tiled=True))


def mean_over(
    groups: Int[np.ndarray, "examples"],
    measures: Float[np.ndarray, "examples"],
    *,
    min_size: int = 1,
) -> float:
    """The mean over groups of each group's mean, for groups of at least `min_size`."""
    members = [groups == group for group in np.unique(groups)]
    return float(
        np.mean([measures[own].mean() for own in members if own.sum() >= min_size])
    )
