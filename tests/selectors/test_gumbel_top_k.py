"""Soft selection against exact Plackett-Luce probabilities."""

from itertools import pairwise, permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from attent_jax.selectors import gumbel_top_k, top_k
from tests.draws import draws

SCORES = np.array([0.0, 0.5, 1.0, -1.0, 0.2], np.float32)
NUM_DRAWS = 20_000
SOFT = {temperature: gumbel_top_k(temperature) for temperature in (0.7, 2.0)}


def plackett_luce(scores, temperature, length) -> dict[tuple[int, ...], float]:
    """The probability of each ordered draw of `length` examples."""
    weights = np.exp(np.asarray(scores, np.float64) / temperature)
    probabilities = {}
    for order in permutations(range(len(scores)), length):
        left, probability = weights.sum(), 1.0
        for example in order:
            probability *= weights[example] / left
            left -= weights[example]
        probabilities[order] = probability
    return probabilities


def assert_distributed(outcomes: list, probabilities: dict) -> None:
    counts = dict.fromkeys(probabilities, 0)
    for outcome in outcomes:
        counts[outcome] += 1
    expected = np.array(list(probabilities.values())) * len(outcomes)
    assert expected.min() > 5  # for the test's own sake
    assert chisquare(list(counts.values()), expected).pvalue > 1e-4


@pytest.mark.parametrize("num_selected", [1, 2, 3])
@pytest.mark.parametrize("temperature", SOFT)
def test_sets_are_drawn_as_plackett_luce_says(temperature, num_selected):
    # (score + g) / T, the reference's slip, has T = 1's frequencies at every T
    sets: dict[tuple[int, ...], float] = {}
    for order, probability in plackett_luce(SCORES, temperature, num_selected).items():
        key = tuple(sorted(order))
        sets[key] = sets.get(key, 0.0) + probability
    masks = draws(SOFT[temperature], SCORES, num_selected, NUM_DRAWS)
    assert_distributed([tuple(np.flatnonzero(mask).tolist()) for mask in masks], sets)


def test_selections_of_one_rng_are_nested_in_plackett_luce_order():
    masks = [draws(SOFT[0.7], SCORES, count, NUM_DRAWS) for count in (1, 2, 3, 5)]
    for small, large in pairwise(masks):
        assert not (small & ~large).any()
    first = masks[0].argmax(axis=1).tolist()
    second = (masks[1] & ~masks[0]).argmax(axis=1).tolist()
    assert_distributed(
        list(zip(first, second, strict=True)), plackett_luce(SCORES, 0.7, 2)
    )


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-4])
def test_a_vanishing_temperature_is_hard_selection(temperature):
    scores = jax.random.permutation(jax.random.key(1), jnp.arange(50.0)) / 10
    for num_selected in (1, 7, 49):
        soft = gumbel_top_k(temperature)(jax.random.key(2), scores, num_selected)
        hard = top_k()(jax.random.key(2), scores, num_selected)
        # score / 1e-30 overflows: ties of inf, at random
        np.testing.assert_array_equal(soft.indices, hard.indices)


@pytest.mark.parametrize("temperature", [1e30, np.inf])
def test_a_huge_temperature_is_uniform(temperature):
    masks = draws(gumbel_top_k(temperature), [-50.0, 0.0, 3.0, 1e3, 1e6], 1, NUM_DRAWS)
    assert chisquare(masks.sum(axis=0)).pvalue > 1e-4


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 0.5, 1.0, 2.0, 1e30, np.inf])
def test_infinite_scores_are_first_and_last_and_nan_after_them(temperature):
    scores = jnp.array([jnp.nan, 0.0, jnp.inf, -jnp.inf, 9.0])
    for num_selected, expected in ((1, {2}), (3, {1, 2, 4}), (4, {1, 2, 3, 4})):
        selection = gumbel_top_k(temperature)(jax.random.key(0), scores, num_selected)
        # inf / inf is NaN, which would send the first to the end
        assert set(selection.indices[:num_selected].tolist()) == expected


@pytest.mark.parametrize("temperature", [0.0, 0.5])
@pytest.mark.parametrize("value", [jnp.inf, -jnp.inf])
def test_ties_at_infinity_are_broken_at_random(temperature, value):
    # by id: example 0 in every draw
    masks = draws(gumbel_top_k(temperature), jnp.full(5, value), 2, 5000)
    # two of five each time: variance below the multinomial's
    assert chisquare(masks.sum(axis=0)).pvalue > 1e-4


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_narrow_scores_get_no_narrow_noise(dtype):
    # bfloat16 noise takes some hundred values: its ties would favour low ids
    selected = draws(gumbel_top_k(), jnp.zeros(4096, dtype), 64, 200)
    num_low = selected[:, :2048].sum()
    deviation = (200 * 64 / 4) ** 0.5
    assert abs(num_low - 200 * 32) < 4 * deviation
