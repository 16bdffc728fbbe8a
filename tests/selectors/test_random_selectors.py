"""uniform, balanced and mix_uniform: how often each example is drawn."""

from fractions import Fraction
from math import floor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax.selectors import balanced, mix_uniform, top_k, uniform
from attent_jax.typing import Selection
from tests.draws import draws

UNIFORM = uniform()


@pytest.mark.parametrize("num_selected", [1, 3, 9])
def test_uniform_draws_every_example_alike_whatever_the_scores(num_selected):
    scores = jnp.array([9.0, jnp.inf, -jnp.inf, 1e-9, 0.0, 1e9, -1e9, 1.0, 2.0, 3.0])
    counts = draws(UNIFORM, scores, num_selected, 10_000).sum(axis=0)
    expected = np.full(10, num_selected * 1000)
    # inclusions of k of n without replacement: (n - 1) / (n - k) of a multinomial's
    statistic = np.sum((counts - expected) ** 2 / expected) * 9 / (10 - num_selected)
    assert statistic < 33.7  # the 1 - 1e-4 quantile at 9 degrees of freedom


def test_uniform_reads_nothing_but_which_examples_are_scored():
    scores = jnp.where(jnp.arange(1000) % 3 == 0, jnp.nan, jnp.arange(1000.0))
    selections = [
        UNIFORM(jax.random.key(0), values, num_selected).indices.tolist()
        for values in (scores, -scores, scores * 0)
        for num_selected in (50, 900)
    ]
    assert selections[:2] == selections[2:4] == selections[4:]


def test_uniform_draws_uniformly_among_unscored_examples_too():
    scores = jnp.full(10, jnp.nan).at[4].set(1.0)
    counts = draws(UNIFORM, scores, 4, 10_000).sum(axis=0)
    assert counts[4] == 10_000
    others = np.delete(counts, 4)
    statistic = np.sum((others - 30_000 / 9) ** 2 / (30_000 / 9)) * 8 / 6  # 3 of 9
    assert statistic < 31.8  # the 1 - 1e-4 quantile at 8 degrees of freedom


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_balanced_shares_go_by_frequency_to_the_power(power):
    sizes = np.array([800, 160, 40])
    labels = np.repeat([2, 0, 1], sizes)
    # the power as an exponent of each example's weight would give class 2 86 % at 0.5
    selected = draws(balanced(labels, power), jnp.zeros(1000), 5, 1000).sum(axis=0)
    shares = [selected[labels == label].sum() / 5000 for label in (2, 0, 1)]
    expected = sizes**power / np.sum(sizes**power)
    np.testing.assert_allclose(shares, expected, atol=0.03)


SHARES = ["0", "0.1", "0.25", "0.3", "0.35", "0.5", "0.7", "0.9", "1"]


@pytest.mark.parametrize("share", SHARES)
def test_mix_uniform_leaves_the_first_choices_and_draws_the_rest(share):
    pool_size = 100
    select = mix_uniform(top_k(), float(share))
    ranking = jax.random.permutation(jax.random.key(1), pool_size).astype(jnp.float32)
    best_first = np.argsort(-np.asarray(ranking)).tolist()
    for num_selected in (1, 2, 3, 10, 20, 70, 90, 99, 100):
        selection = select(jax.random.key(num_selected), ranking, num_selected)
        chosen = set(selection.indices[:num_selected].tolist())
        # an inverted share would keep floor(share * num_selected)
        num_kept = num_selected - floor(Fraction(share) * num_selected)
        assert set(best_first[:num_kept]) <= chosen
        if 0 < num_kept < num_selected < 50:
            assert chosen != set(best_first[:num_selected])


def test_mix_uniform_draws_uniformly_among_the_others():
    counts = draws(mix_uniform(top_k(), 0.5), jnp.arange(10.0), 4, 10_000).sum(axis=0)
    assert counts[8:].tolist() == [10_000, 10_000]
    statistic = np.sum((counts[:8] - 2500) ** 2 / 2500) * 7 / 6  # 2 of 8
    assert statistic < 29.9  # the 1 - 1e-4 quantile at 7 degrees of freedom


def test_mix_uniform_counts_large_selections_exactly():
    pool_size = 2**24 + 3

    @jax.jit
    def asked_of_inner(num_selected):
        asked = []

        def recorded(rng, scores, num_selected):
            asked.append(num_selected)
            return top_k()(rng, scores, num_selected)

        select = mix_uniform(recorded, 1.0)
        select(jax.random.key(0), jnp.zeros(pool_size), num_selected)
        return asked

    assert asked_of_inner(pool_size) == [0]  # in float32, -1


def test_mix_uniform_keeps_the_selectors_weights():
    def reweighted(rng, scores, num_selected):
        selection = top_k()(rng, scores, num_selected)
        return selection._replace(weights=selection.weights * 2.5)

    selection: Selection = mix_uniform(reweighted, 0.5)(
        jax.random.key(0), jnp.arange(10.0), 4
    )
    ids = selection.indices.tolist()
    weights = dict(zip(ids, selection.weights.tolist(), strict=True))
    assert weights[8] == weights[9] == 2.5
    assert sorted(selection.weights.tolist()) == [0.0] * 6 + [1.0, 1.0, 2.5, 2.5]


def test_mix_uniform_gives_its_parts_different_keys():
    # with one key for both, the uniform part follows from the choice
    select = mix_uniform(uniform(), 0.5)
    pairs = {tuple(mask) for mask in draws(select, jnp.zeros(4), 2, 300).tolist()}
    assert len(pairs) == 6  # of 4 over 2
