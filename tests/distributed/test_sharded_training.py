"""Training on eight devices is training on one, however the step is spread."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from attent_jax.data import ArrayPool, epoch_batches
from attent_jax.distributed import (
    batch_sharding,
    fsdp_shardings,
    make_mesh,
    put,
    replicated,
)
from attent_jax.scores import loss
from attent_jax.training import (
    TrainInfo,
    TrainState,
    init_train_state,
    make_train_step,
    score_pool,
)
from attent_jax.typing import Selection
from tests.compilations import compilations
from tests.families import TEACHERS, examples, learner, loss_fn, members

NUM_DEVICES, PER_DEVICE, NUM_EPOCHS = 8, 2, 12
BATCH_SIZE = NUM_DEVICES * PER_DEVICE
# Ragged: a full epoch's last batch has 9 examples, so that one shard is half padding
# and three are all padding. A mean of the shards' means would divide by 0, or weigh
# every shard alike.
POOL = ArrayPool(examples(2 * BATCH_SIZE + 9))
MESH = make_mesh(fsdp=4)
SPLIT = batch_sharding(MESH)
OPTIMIZER = optax.adam(0.02, eps=1e-2)
STEP, SCORE = make_train_step(loss_fn, OPTIMIZER), loss(loss_fn)


def start() -> TrainState:
    return init_train_state(learner(), OPTIMIZER)


class Mode(NamedTuple):
    """A way to spread a step: where its arguments lie, and how its state is read."""

    step: Callable[..., Any]
    state: Callable[[TrainState], TrainState]
    batches: Callable[..., Any]
    read: Callable[[Any], Any] = lambda state: state


def on_host(selection: Selection, epoch: int):
    return epoch_batches(POOL, selection, BATCH_SIZE, seed=epoch)


def on_mesh(selection: Selection, epoch: int):
    return epoch_batches(POOL, selection, BATCH_SIZE, seed=epoch, sharding=SPLIT)


def in_rows(selection: Selection, epoch: int):
    def by_device(leaf):
        return leaf.reshape(NUM_DEVICES, PER_DEVICE, *leaf.shape[1:])

    return (jax.tree.map(by_device, batch) for batch in on_host(selection, epoch))


def over_shards(loss_fn, **options):
    whole, split = PartitionSpec(), SPLIT.spec
    info: Any = TrainInfo(*cast(Any, [whole] * len(TrainInfo._fields)))
    return jax.jit(
        jax.shard_map(
            make_train_step(loss_fn, OPTIMIZER, axis_name=cast(Any, MESH.axis_names)),
            mesh=MESH,
            in_specs=(whole, whole, split, split),
            out_specs=(whole, info._replace(losses=split)),
            **options,
        )
    )


def fully_sharded(state: TrainState) -> TrainState:
    return put(state, fsdp_shardings(MESH, state, min_size=1))


def everywhere(state: TrainState) -> TrainState:
    return put(state, replicated(MESH))


def stacked(state: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * NUM_DEVICES), state)


def the_one_of_all(leaf):
    np.testing.assert_array_equal(leaf, np.stack([leaf[0]] * NUM_DEVICES))
    return leaf[0]


MODES = {
    "jit over a mesh": Mode(STEP, everywhere, on_mesh),
    "jit, fully sharded": Mode(STEP, fully_sharded, on_mesh),
    "shard_map": Mode(over_shards(loss_fn), everywhere, on_mesh),
    "shard_map without check_vma": Mode(
        over_shards(loss_fn, check_vma=False), everywhere, on_mesh
    ),
    "pmap": Mode(
        jax.pmap(
            make_train_step(loss_fn, OPTIMIZER, axis_name="data"),
            axis_name="data",
            in_axes=(0, None, 0, 0),
        ),
        stacked,
        in_rows,
        read=lambda state: jax.tree.map(the_one_of_all, state),
    ),
}
every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())


def unequally(selection: Selection) -> Selection:
    factors = (1 + selection.indices % 3).astype(jnp.float32)
    return selection._replace(weights=selection.weights * factors)


@cache
def on_one_device(name: str) -> tuple[list[Selection], TrainState, list[Any]]:
    """What the teacher selects, epoch by epoch, and what is learnt from it."""
    teacher = TEACHERS[name]
    state, teaching, scores = start(), teacher.init(len(POOL)), jnp.zeros(len(POOL))
    selections, losses = [], []
    for epoch in range(NUM_EPOCHS):
        if teacher.needs_scores(teaching):
            scores = score_pool(SCORE, state.params, POOL)
        teaching, _ = teacher.update(jax.random.key(epoch), teaching, scores)
        selections.append(unequally(teaching.selection))
        state, losses_of_epoch = taught(STEP, state, on_host(selections[-1], epoch))
        losses.extend(losses_of_epoch)
    return selections, state, losses


def taught(step, state, batches: Iterator[Any]) -> tuple[Any, list[Any]]:
    losses = []
    for _, batch, weights in batches:
        state, info = step(state, None, batch, weights)
        losses.append(np.ravel(info.losses))
    return state, losses


@pytest.mark.parametrize("name", members({name: name for name in TEACHERS}))
@every_mode
def test_a_curriculum_on_all_devices_is_that_on_one(mode, name):
    selections, expected, expected_losses = on_one_device(name)
    state, losses = mode.state(start()), []
    for epoch, selection in enumerate(selections):
        state, losses_of_epoch = taught(
            mode.step, state, mode.batches(selection, epoch)
        )
        losses.extend(losses_of_epoch)
    assert int(expected.step) == len(losses)
    # gradients summed twice come out 8 times too large, not summed, an eighth
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=1e-6),
        mode.read(state),
        expected,
    )
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-6, atol=1e-6)


def test_a_fully_sharded_state_stays_so():
    state = fully_sharded(start())
    layout = fsdp_shardings(MESH, state, min_size=1)
    for epoch, selection in enumerate(on_one_device("attent")[0]):
        state, _ = taught(STEP, state, on_mesh(selection, epoch))
    assert jax.tree.all(
        jax.tree.map(
            lambda leaf, sharding: leaf.sharding.is_equivalent_to(sharding, leaf.ndim),
            state,
            layout,
        )
    )
    adam = cast(Any, state.opt_state)[0]
    for leaf in (state.params["w"], adam.mu["w"], adam.nu["w"]):
        assert {shard.data.shape for shard in leaf.addressable_shards} == {(1, 3)}


def test_a_curriculum_over_a_mesh_compiles_one_step():
    step = make_train_step(lambda *arguments: loss_fn(*arguments), OPTIMIZER)
    selections = on_one_device("attent by schedules")[0]
    for place in (everywhere, fully_sharded):
        state = place(start())
        batches = [list(on_mesh(one, epoch)) for epoch, one in enumerate(selections)]
        with compilations() as compiled:
            for batch in batches:
                state, _ = taught(step, state, iter(batch))
        assert len(compiled) == 1


def test_each_shard_has_its_own_randomness():
    def noise(params, rng, batch):
        return jax.random.uniform(rng, (len(batch),)) + 0 * params

    state = init_train_state(jnp.array(0.0), OPTIMIZER)
    zeros, ones = jnp.zeros(BATCH_SIZE), jnp.ones(BATCH_SIZE)
    _, info = over_shards(noise)(state, jax.random.key(0), zeros, ones)
    assert len(set(info.losses.tolist())) == BATCH_SIZE
