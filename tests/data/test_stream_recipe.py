"""The recipe of docs/streams.md: chunks of any size, padded, compile nothing again."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from attent_jax import data, scores, selectors, training
from tests.compilations import compilations
from tests.families import examples, learner, loss_fn

CAPACITY, BATCH_SIZE, RATIO = 32, 4, 0.25
SIZES = [32, 21, 8, 32, 1, 27]


def padded(leaf: np.ndarray) -> np.ndarray:
    widths = [(0, CAPACITY - len(leaf))] + [(0, 0)] * (leaf.ndim - 1)
    return np.pad(leaf, widths, mode="edge")


@pytest.mark.parametrize("kind", ["arrays", "list"])
@pytest.mark.parametrize(
    "select_fn", [selectors.top_k(), selectors.gumbel_top_k(), selectors.uniform()]
)
def test_chunks_of_any_size_compile_nothing_again(kind, select_fn):
    score_fn, optimizer = scores.loss(loss_fn), optax.sgd(0.1)
    train_step = training.make_train_step(loss_fn, optimizer)
    select_fn = jax.jit(select_fn)
    state = training.init_train_state(learner(), optimizer)

    def learn(state, number, size):
        chunk = examples(size, seed=number)
        if kind == "arrays":
            pool = data.ArrayPool(jax.tree.map(padded, chunk))
        else:
            rows = [jax.tree.map(lambda leaf, i=i: leaf[i], chunk) for i in range(size)]
            rows += rows[:1] * (CAPACITY - size)
            pool = data.SourcePool(rows, num_threads=2)
        found = training.score_pool(score_fn, state.params, pool, batch_size=16)
        found = jnp.where(jnp.arange(CAPACITY) < size, found, jnp.nan)
        num_selected = max(1, int(RATIO * size))
        selection = select_fn(jax.random.key(number), found, num_selected)
        taught = []
        for ids, batch, weights in data.epoch_batches(
            pool, selection, BATCH_SIZE, seed=number
        ):
            state, info = train_step(state, None, batch, weights)
            assert not info.is_skipped
            taught += ids[np.asarray(weights) > 0].tolist()
        assert len(set(taught)) == len(taught) == num_selected
        assert max(taught) < size  # the padding is never taught
        return state

    state = learn(state, 0, SIZES[0])
    with compilations() as compiled:
        for number, size in enumerate(SIZES):
            state = learn(state, number, size)
    assert compiled == []
