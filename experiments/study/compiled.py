"""A workload's functions for a mesh, compiled once for all methods and seeds."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from attent_jax import distributed, scores, training
from attent_jax.scores import ScoreTable
from attent_jax.training import TrainState
from attent_jax.typing import ScoreFn
from experiments.study import flops
from experiments.study.methods import MakeStep
from experiments.study.workload import Workload


class Outcome(NamedTuple):
    """What a step leaves for the host; every process has all of it."""

    loss: Float[Array, ""]
    is_skipped: Bool[Array, ""]
    is_bad: Bool[Array, "batch"]
    """`[batch]` rows whose loss is not finite."""
    is_taught: Bool[Array, "batch"]
    """`[batch]` rows that the step trained on; none if it was skipped."""


class Compiled(NamedTuple):
    """The functions of one kind of step, and what they work on."""

    init: Callable[[jax.Array, float, float], TrainState]
    """`(rng, num_steps, learning_rate) -> state`, created where it belongs."""
    step: Callable[..., tuple[TrainState, ScoreTable, Outcome]]
    """`(state, table, rng, batch, ids, weights) -> (state, table, outcome)`; state and
    table are donated."""
    score_fn: ScoreFn
    abstract_state: TrainState
    """Shapes, types and shardings of the train state."""


def compile_for(workload: Workload, make_step: MakeStep, mesh: Mesh) -> Compiled:
    """The functions, the same objects for the same arguments."""
    return _compile_for(_key(workload), make_step, mesh)


def _key(workload: Workload) -> Workload:
    """The workload without what compiled functions do not depend on."""
    return workload._replace(
        load=_no_data,
        evaluate=_no_data,
        final_evaluate=None,
        snapshot=None,
        example=None,
        learning_rate=0.0,
        learning_rates=(),
    )


def _no_data(*_) -> Any:
    raise AssertionError("compiled functions do not read data")


class _Common(NamedTuple):
    """What all kinds of steps share."""

    init: Callable[[jax.Array, float, float], TrainState]
    score_fn: ScoreFn
    abstract_state: TrainState


@functools.cache
def _common(workload: Workload, mesh: Mesh) -> _Common:
    def init(rng, num_steps, learning_rate) -> TrainState:
        optimizer = _optimizer(workload, num_steps, learning_rate)
        return training.init_train_state(
            workload.init_params(rng), optimizer, trainable=workload.trainable
        )

    abstract = jax.eval_shape(init, jax.random.key(0), 1.0, 1.0)
    shardings = workload.shardings(mesh, abstract)
    placed = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=sharding
        ),
        abstract,
        shardings,
    )
    return _Common(
        jax.jit(init, out_shardings=shardings), scores.loss(workload.loss_fn), placed
    )


def _optimizer(workload: Workload, num_steps: Any, learning_rate: Any):
    # The two numbers are part of the optimizer's state.
    make = optax.inject_hyperparams(
        workload.make_optimizer, hyperparam_dtype=jnp.float32
    )
    return make(num_steps, learning_rate)


@functools.cache
def _compile_for(workload: Workload, make_step: MakeStep, mesh: Mesh) -> Compiled:
    common = _common(workload, mesh)
    everywhere = distributed.replicated(mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, common.abstract_state)
    train_step = make_step(workload, _optimizer(workload, 1.0, 1.0), mesh)

    @functools.partial(
        jax.jit,
        donate_argnums=(0, 1),
        out_shardings=(shardings, everywhere, everywhere),
    )
    def step(state, table, rng, batch, ids, weights):
        state, info = train_step(state, rng, batch, weights)
        table = table.update(
            ids, info.losses, weights * info.is_taught.astype(weights.dtype)
        )
        is_bad = ~jnp.isfinite(info.losses) & info.is_taught
        is_taught = info.is_taught & ~info.is_skipped
        return state, table, Outcome(info.loss, info.is_skipped, is_bad, is_taught)

    return Compiled(common.init, step, common.score_fn, common.abstract_state)


class Flops(NamedTuple):
    """Floating-point operations, as `flops.count` counts them."""

    step: float
    score: float
    """Of one example."""


def count_flops(workload: Workload, make_step: MakeStep) -> Flops:
    """The FLOPs of a step and of a score, on one device and without compiling."""
    leaves, structure = jax.tree.flatten(workload.example)
    return _count_flops(_key(workload), make_step, tuple(leaves), structure)


@functools.cache
def _count_flops(
    workload: Workload, make_step: MakeStep, leaves: tuple[Any, ...], structure: Any
) -> Flops:
    workload = workload._replace(example=jax.tree.unflatten(structure, leaves))
    mesh = distributed.make_mesh(devices=jax.local_devices()[:1])
    functions = compile_for(workload, make_step, mesh)
    state, rng = functions.abstract_state, jax.random.key(0)
    table = jax.eval_shape(lambda: ScoreTable.init(workload.num_examples))
    size = workload.batch_size
    step = flops.count(
        functions.step,
        state,
        table,
        rng,
        workload.batch(size),
        jax.ShapeDtypeStruct((size,), np.int32),
        jax.ShapeDtypeStruct((size,), np.float32),
    )
    num_scored = min(workload.score_batch_size, workload.num_examples)
    score = flops.count(
        functions.score_fn, state.params, rng, workload.batch(num_scored)
    )
    return Flops(step, score / num_scored)
