"""A whole curriculum, teacher, score table and training, in one scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax import scores, selectors, teachers
from tests.compilations import compilations

NUM_EXAMPLES, BATCH_SIZE, NUM_EPOCHS = 12, 4, 8
X = jax.random.normal(jax.random.key(0), (NUM_EXAMPLES, 3))
TEACHERS = {
    "a stateful transform": teachers.attent(
        selectors.gumbel_top_k(0.5),
        ratio=0.5,
        interval=2,
        score_transform=scores.chain(scores.ema(0.5), scores.standardize()),
    ),
    "recommended": teachers.recommended(NUM_EPOCHS),
}


def start(teacher):
    return jnp.ones(3), teacher.init(NUM_EXAMPLES), scores.ScoreTable.init(NUM_EXAMPLES)


def train_on(carry, batch):
    w, table = carry
    ids, weights = batch
    losses = (X[ids] @ w - 1.0) ** 2
    gradient = jax.grad(lambda w: jnp.sum(weights * (X[ids] @ w - 1.0) ** 2))(w)
    return (w - 0.01 * gradient, table.update(ids, losses, weights)), None


def epoch_of(teacher):
    def epoch(carry, rng):
        w, state, table = carry
        state, _ = teacher.update(rng, state, table.scores)
        batches = jax.tree.map(
            lambda leaf: leaf.reshape(-1, BATCH_SIZE), state.selection[:2]
        )
        (w, table), _ = jax.lax.scan(train_on, (w, table), batches)
        return (w, state, table), state.selection.num_selected

    return epoch


@pytest.mark.parametrize("teacher", TEACHERS.values(), ids=TEACHERS.keys())
def test_one_scan_equals_the_loop_and_keeps_every_type(teacher):
    rngs = jax.random.split(jax.random.key(1), NUM_EPOCHS)
    carry, counts = start(teacher), []
    for rng in rngs:
        carry, count = epoch_of(teacher)(carry, rng)
        counts.append(int(count))
    run = jax.jit(lambda carry: jax.lax.scan(epoch_of(teacher), carry, rngs))
    scanned, scanned_counts = run(start(teacher))
    types = jax.tree.map(jax.typeof, start(teacher))
    assert jax.tree.map(jax.typeof, scanned) == types
    assert scanned_counts.tolist() == counts
    np.testing.assert_array_equal(
        scanned[1].selection.indices, carry[1].selection.indices
    )
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5),
        scanned,
        carry,
    )
    with compilations() as compiled:
        run(scanned)
    assert compiled == []
