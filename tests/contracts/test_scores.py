"""What holds for every score."""

import inspect
import pickle

import jax
import numpy as np
import pytest

from attent_jax import scores
from tests.compilations import assert_same_program
from tests.families import SCORES, TRANSFORMS, examples, learner

every_score = pytest.mark.parametrize("score", SCORES.values(), ids=SCORES.keys())


def test_the_families_are_complete():
    members = {name.split()[0] for name in [*SCORES, *TRANSFORMS]}
    assert members | {"masked_mean", "ScoreTable"} == set(scores.__all__)


@every_score
def test_parameters_are_params_rng_batch(score):
    assert list(inspect.signature(score).parameters) == ["params", "rng", "batch"]


@every_score
def test_one_float32_per_example(score):
    values = jax.jit(score)(learner(), None, examples(6))
    assert values.shape == (6,)
    assert values.dtype == np.float32
    assert len(set(values.tolist())) == 6  # no example's score is another's


@every_score
def test_jit_equals_eager_and_traces_once(score):
    num_traces = 0

    @jax.jit
    def compiled(params, rng, batch):
        nonlocal num_traces
        num_traces += 1
        return score(params, rng, batch)

    for seed in range(3):
        arguments = learner(seed), jax.random.key(seed), examples(6, seed)
        np.testing.assert_allclose(
            compiled(*arguments), score(*arguments), rtol=2e-6, atol=1e-6
        )
    assert num_traces == 1


@every_score
def test_vmap_over_learners_equals_a_loop(score):
    batch, compiled = examples(6), jax.jit(score)
    learners = [learner(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *learners)
    together = jax.vmap(score, in_axes=(0, None, None))(stacked, None, batch)
    one_by_one = [compiled(params, None, batch) for params in learners]
    np.testing.assert_allclose(together, one_by_one, rtol=1e-5, atol=1e-6)


@every_score
def test_the_rng_reaches_the_learner(score):
    batch, params, compiled = examples(6), learner(), jax.jit(score)
    deterministic = compiled(params, None, batch)
    first, again, other = (
        compiled(params, jax.random.key(s), batch) for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, deterministic)
    assert not np.allclose(first, other)


@every_score
def test_order_of_the_batch_only_orders_the_scores(score):
    batch, order = examples(6), np.array([3, 1, 5, 0, 2, 4])
    shuffled = jax.tree.map(lambda leaf: leaf[order], batch)
    compiled = jax.jit(score)
    np.testing.assert_allclose(
        compiled(learner(), None, shuffled),
        compiled(learner(), None, batch)[order],
        rtol=1e-5,
    )


@pytest.mark.parametrize("name", [n for n in SCORES if "ntk_guided" not in n])
def test_the_other_examples_do_not_matter(name):
    # ntk_guided is about the others; a mean over the batch would show in any other
    batch, score = examples(6), jax.jit(SCORES[name])
    alone = [
        score(learner(), None, jax.tree.map(lambda leaf: leaf[i : i + 1], batch))[0]  # noqa: B023
        for i in range(6)
    ]
    np.testing.assert_allclose(score(learner(), None, batch), alone, rtol=1e-5)


@every_score
def test_jax_debug_nans_and_check_tracer_leaks_report_nothing(score):
    with jax.debug_nans(True), jax.checking_leaks():
        values = score(learner(), None, examples(6))
        np.testing.assert_allclose(
            jax.jit(score)(learner(), None, examples(6)), values, rtol=2e-6, atol=1e-6
        )


@every_score
def test_pickling_keeps_the_score(score):
    again = pickle.loads(pickle.dumps(score))
    assert repr(again) == repr(score)
    assert_same_program(again, score, learner(), None, examples(6))


@pytest.mark.parametrize("name", ["gradient_norm", "ntk_guided"])
def test_integer_parameters_are_refused_with_the_remedy(name):
    params = {**learner(), "step": np.int32(3)}
    with pytest.raises(TypeError, match="'step' is int32, which has no gradient"):
        SCORES[name](params, None, examples(6))


def test_repr_is_the_call():
    assert repr(SCORES["loss"]) == "loss(loss_fn)"
    expected = "gradient_norm(loss_fn, microbatch_size=4)"
    assert repr(SCORES["gradient_norm in microbatches"]) == expected
