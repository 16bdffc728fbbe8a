"""A pool scored in batches equals the pool scored at once."""

import weakref

import jax
import numpy as np
import pytest

from attent_jax.data import ArrayPool, SourcePool
from attent_jax.data._fetch import fetch_batches
from attent_jax.scores import loss
from attent_jax.training import score_pool
from tests.compilations import compilations
from tests.data.sources import CountingSource, OwnPool, timeout_is_failure
from tests.families import examples, learner, loss_fn

SCORE = loss(loss_fn)


def by_rng(params, rng, batch):
    return jax.random.uniform(rng, (len(batch),)) + 0 * batch


@pytest.mark.parametrize("batch_size", [1, 8, 64, 1000])
@pytest.mark.parametrize("num_examples", [1, 7, 64, 65])
def test_every_example_scores_as_it_does_directly(num_examples, batch_size):
    if num_examples > 8 * batch_size:
        num_examples = 8 * batch_size + 1
    arrays = examples(num_examples)
    scores = score_pool(SCORE, learner(), ArrayPool(arrays), batch_size=batch_size)
    assert scores.shape == (num_examples,)
    np.testing.assert_allclose(
        scores, SCORE(learner(), None, arrays), rtol=1e-5, atol=1e-6
    )


def test_each_batch_is_taken_once_and_in_order():
    class Recording(ArrayPool):
        def take(self, ids):
            taken.append(ids.tolist())
            return super().take(ids)

    taken: list[list[int]] = []
    ids = np.arange(10, dtype=np.float32)
    scores = score_pool(lambda p, r, batch: batch, None, Recording(ids), batch_size=4)
    assert scores.tolist() == ids.tolist()
    # ragged batches of their own shape would compile again
    assert taken == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 9]]


def test_an_example_meets_the_same_randomness_each_time():
    pool = ArrayPool(np.zeros(10, np.float32))

    def scored(seed):
        return score_pool(by_rng, None, pool, batch_size=4, rng=jax.random.key(seed))

    first = scored(0).tolist()
    assert first == scored(0).tolist()
    assert first != scored(1).tolist()
    # one key for all batches: three times the same four numbers
    assert len(set(first)) == 10


def test_a_second_scoring_compiles_nothing():
    pool, params = ArrayPool(examples(65)), learner()
    score_pool(SCORE, params, pool, batch_size=16)
    with compilations() as compiled:
        score_pool(SCORE, learner(), pool, batch_size=16)
        again = ArrayPool(examples(65, seed=1))
        score_pool(SCORE, params, again, batch_size=16)
    assert compiled == []


def test_no_more_than_a_few_batches_are_held_at_once():
    class Leaf(np.ndarray):
        """An array that a weak reference can follow."""

    class Counting(ArrayPool):
        def take(self, ids):
            batch = super().take(ids).view(Leaf)
            alive.append(weakref.ref(batch))
            held.append(sum(ref() is not None for ref in alive))
            return batch

    alive: list[weakref.ref] = []
    held: list[int] = []
    pool = Counting(np.zeros((64, 2), np.float32))
    score_pool(lambda p, r, batch: batch[:, 0], None, pool, batch_size=2)
    assert len(held) == 32
    assert max(held) <= 8


def test_threads_read_as_many_batches_at_once_as_the_pool_says():
    source = CountingSource(24, num_threads=3)
    pool = SourcePool(source, num_threads=3)
    with timeout_is_failure():
        scores = score_pool(lambda p, r, batch: batch, None, pool, batch_size=1)
    assert sorted(source.read) == scores.tolist() == list(range(24))


def test_a_pool_of_ones_own_needs_a_length_and_take_alone():
    pool = OwnPool(np.arange(10, dtype=np.float32))
    scores = score_pool(lambda p, r, batch: batch, None, pool, batch_size=4)
    assert scores.tolist() == list(range(10))
    assert len(pool.taken) == 3


@pytest.mark.parametrize("num_threads", [1, 3])
def test_no_more_is_read_ahead_than_the_threads_can_use(num_threads):
    class Counting(OwnPool):
        def take(self, ids):
            taken.append(ids)
            return super().take(ids)

    taken: list[np.ndarray] = []
    pool = Counting(np.zeros(600, np.float32))
    setattr(pool, "num_threads", num_threads)  # noqa: B010
    batches = fetch_batches(pool, lambda i: np.array([i]), 600, 1, None)
    for number in range(50):
        next(batches)
        assert len(taken) <= number + 1 + 2 * num_threads


def test_the_error_of_a_pool_comes_through_the_threads():
    class Broken(OwnPool):
        num_threads = 2

        def take(self, ids):
            if 5 in ids:
                raise OSError("example 5 is lost")
            return super().take(ids)

    with pytest.raises(OSError, match="example 5 is lost"):
        score_pool(lambda p, r, batch: batch, None, Broken(np.ones(10)), batch_size=2)
