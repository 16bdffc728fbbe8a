"""Scripts as a user writes them: they run, and pyright accepts them as they are.

Nothing here is cast or ignored; `make lint` fails where a public type is too narrow.
"""

from collections.abc import Iterator
from functools import partial
from typing import TypedDict

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from attent_jax import data, distributed, scores, selectors, teachers, training
from attent_jax.typing import ScoreFn, Selection, Teacher, TeacherState

NUM_EXAMPLES, BATCH_SIZE, NUM_EPOCHS = 24, 8, 3
PARAMS = {"w": jnp.zeros(4)}


class Example(TypedDict):
    x: np.ndarray
    y: np.ndarray


def load(num_examples: int) -> Example:
    x = np.random.default_rng(0).standard_normal((num_examples, 4), np.float32)
    return {"x": x, "y": np.sin(x.sum(axis=1))}


def loss_fn(
    params: dict[str, jax.Array], rng: jax.Array | None, batch: dict[str, jax.Array]
) -> jax.Array:
    return (batch["x"] @ params["w"] - batch["y"]) ** 2


OPTIMIZER = optax.adam(0.1)
TRAIN_STEP = training.make_train_step(loss_fn, OPTIMIZER)
SCORE_FN: ScoreFn = scores.loss(loss_fn)


def train(pool: data.Pool, teacher: Teacher) -> training.TrainState:
    """The loop of the first page: scores from a pass where they are due."""
    state: training.TrainState = training.init_train_state(PARAMS, OPTIMIZER)
    teaching: TeacherState = teacher.init(len(pool))
    pool_scores = np.zeros(len(pool))
    key = jax.random.key(0)
    for epoch in range(NUM_EPOCHS):
        if teacher.needs_scores(teaching):
            pool_scores = training.score_pool(
                SCORE_FN, state.params, pool, batch_size=BATCH_SIZE
            )
        rng = jax.random.fold_in(key, epoch)
        teaching, info = teacher.update(rng, teaching, pool_scores)
        for ids, batch, weights in data.epoch_batches(
            pool, teaching.selection, BATCH_SIZE, seed=(0, epoch)
        ):
            state, train_info = TRAIN_STEP(state, key, batch, weights)
            assert train_info.losses.shape == ids.shape == weights.shape
        assert int(info.epoch) == epoch
    return state


def test_arrays_and_a_teacher():
    teacher = teachers.attent(selectors.gumbel_top_k(0.5), ratio=0.5)
    plan = teachers.plan(
        teacher,
        num_examples=NUM_EXAMPLES,
        num_epochs=NUM_EPOCHS,
        batch_size=BATCH_SIZE,
    )
    state = train(data.ArrayPool(load(NUM_EXAMPLES)), teacher)
    assert int(state.step) == plan.num_steps


class Source:
    """A grain source, as its documentation writes one."""

    def __init__(self, num_examples: int):
        self.arrays = load(num_examples)

    def __len__(self) -> int:
        return len(self.arrays["y"])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"x": self.arrays["x"][index], "y": self.arrays["y"][index]}


def test_sources_of_grain():
    def stack(examples: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: np.stack([e[name] for e in examples]) for name in examples[0]}

    source = Source(NUM_EXAMPLES)
    dataset = grain.MapDataset.source(source).map(lambda example: example)
    for pool in (
        data.SourcePool(source, num_threads=2),
        data.SourcePool(source, num_threads=0, collate_fn=stack),
        data.SourcePool(dataset, num_threads=2),
        data.SourcePool([source[i] for i in range(NUM_EXAMPLES)]),
        data.SourcePool(tuple(source[i] for i in range(NUM_EXAMPLES))),
    ):
        assert int(train(pool, teachers.full()).step) == 9


class MemoryMap:
    """A pool that has nothing of the library's."""

    def __init__(self, arrays: Example):
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays["y"])

    def take(self, ids: np.ndarray) -> Example:
        return {"x": self.arrays["x"][ids], "y": self.arrays["y"][ids]}


def test_a_pool_of_ones_own():
    assert int(train(MemoryMap(load(NUM_EXAMPLES)), teachers.full()).step) == 9


def test_free_scores_and_a_donated_step():
    optimizer = optax.sgd(0.1)
    pool: data.Pool = data.ArrayPool(load(NUM_EXAMPLES))
    train_step = training.make_train_step(loss_fn, optimizer)
    step = jax.jit(train_step, donate_argnums=0)
    teacher = teachers.recommended(NUM_EPOCHS)
    table: scores.ScoreTable = scores.ScoreTable.init(len(pool))
    params = jax.tree.map(jnp.copy, PARAMS)
    state, teaching = training.init_train_state(params, optimizer), teacher.init(24)
    for epoch in range(NUM_EPOCHS):
        rng = jax.random.key(epoch)
        teaching, _ = teacher.update(rng, teaching, table.scores)
        batches: Iterator[data.EpochBatch] = data.epoch_batches(
            pool, teaching.selection, BATCH_SIZE, seed=epoch, start=0
        )
        for epoch_batch in batches:
            state, info = step(state, None, epoch_batch.batch, epoch_batch.weights)
            table = table.update(epoch_batch.ids, info.losses, epoch_batch.weights)
    assert bool(jnp.all(jnp.isfinite(table.scores)))


def test_weights_and_scores_of_numpy():
    optimizer = optax.sgd(0.1)
    train_step = training.make_train_step(loss_fn, optimizer)
    state = training.init_train_state(PARAMS, optimizer)
    pool = data.ArrayPool(load(NUM_EXAMPLES))
    batch = data.take(pool, np.arange(8))
    state, _ = train_step(state, None, batch, np.ones(8, np.float32))
    selective_step = training.make_selective_train_step(
        loss_fn, optimizer, selectors.top_k(), num_selected=4
    )
    state, _ = selective_step(state, None, batch, np.ones(8, np.float32))
    select_fn = selectors.top_k()
    selection: Selection = select_fn(jax.random.key(0), jnp.ones(5), 2)
    assert int(selection.num_selected) == 2

    def score_fn(params: dict[str, jax.Array], rng, batch: Example) -> jax.Array:
        return jnp.abs(batch["y"])

    either: list[ScoreFn] = [score_fn, scores.loss(loss_fn)]
    for one in either:
        training.score_pool(one, state.params, pool, batch_size=8)


def test_a_curriculum_on_the_device():
    arrays = {"x": jnp.ones((24, 4)), "y": jnp.ones(24)}
    optimizer = optax.sgd(0.1)
    train_step = training.make_train_step(loss_fn, optimizer)
    teacher = teachers.full()

    @partial(jax.jit, static_argnames="num_epochs")
    def curriculum(state: training.TrainState, num_epochs: int):
        def epoch_of(carry: tuple[training.TrainState, TeacherState], rng: jax.Array):
            state, teaching = carry
            teaching, _ = teacher.update(rng, teaching, jnp.zeros(24))
            order = data.epoch_order(rng, teaching.selection, BATCH_SIZE)

            def step(i, state):
                batch = jax.tree.map(lambda leaf: leaf[order.ids[i]], arrays)
                return train_step(state, None, batch, order.weights[i])[0]

            state = jax.lax.fori_loop(0, order.num_steps, step, state)
            return (state, teaching), order.num_steps

        rngs = jax.random.split(jax.random.key(0), num_epochs)
        return jax.lax.scan(epoch_of, (state, teacher.init(24)), rngs)

    (state, _), _ = curriculum(training.init_train_state(PARAMS, optimizer), 3)
    assert int(state.step) == 9


def test_a_mesh():
    mesh = distributed.make_mesh(devices=jax.devices()[:4])
    split = distributed.batch_sharding(mesh)
    optimizer = optax.sgd(0.1)
    pool = data.ArrayPool(load(NUM_EXAMPLES))
    state = training.init_train_state(PARAMS, optimizer)
    state = distributed.put(state, distributed.fsdp_shardings(mesh, state))
    train_step = training.make_train_step(loss_fn, optimizer)
    pool_scores = training.score_pool(
        scores.loss(loss_fn), state.params, pool, batch_size=8, sharding=split
    )
    select_fn = selectors.top_k(mesh=mesh)
    selection = select_fn(jax.random.key(0), pool_scores, 12)
    for _, batch, weights in data.epoch_batches(
        pool, selection, BATCH_SIZE, seed=0, sharding=split, drop_remainder=True
    ):
        state, _ = train_step(state, None, batch, weights)
    assert int(state.step) == 1
