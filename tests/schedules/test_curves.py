"""Schedules against hand-written values at their boundaries."""

from fractions import Fraction
from math import floor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax.schedules import constant, cosine, linear, step

GOLDEN = {
    "constant": (constant(0.25), {0: 0.25, 1: 0.25, 10**6: 0.25}),
    # one step late or early would put 0.45 or 0.6 at step 4
    "linear": (
        linear(0.2, 0.8, 8),
        {-1: 0.2, 0: 0.2, 1: 0.275, 4: 0.5, 7: 0.725, 8: 0.8, 9: 0.8, 10**6: 0.8},
    ),
    "linear, falling": (linear(8, 2, 3), {0: 8, 1: 6, 2: 4, 3: 2, 4: 2}),
    "linear in one step": (linear(1, 5, 1), {0: 1, 1: 5, 2: 5}),
    "cosine": (
        cosine(0.0, 1.0, 6),
        {-1: 0, 0: 0, 1: 0.0669873, 2: 0.25, 3: 0.5, 4: 0.75, 6: 1, 7: 1},
    ),
    "step": (
        step([1.0, 2.0, 4.0], [3, 5]),
        {0: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 10**6: 4},
    ),
    "step without boundaries": (step([7.0], []), {0: 7, 5: 7}),
}


@pytest.mark.parametrize(("schedule", "table"), GOLDEN.values(), ids=GOLDEN.keys())
def test_values_before_at_and_after_each_boundary(schedule, table):
    values = [float(schedule(step)) for step in table]
    np.testing.assert_allclose(values, list(table.values()), rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("initial", [0.2, 0.7, 1.0, 3.0])
@pytest.mark.parametrize("curve", [linear, cosine])
def test_both_ends_are_exact(curve, initial):
    # initial + 1.0 * (final - initial) misses final by a rounding error
    schedule = curve(initial, 0.1, 7)
    assert schedule(0) == np.float32(initial)
    assert schedule(7) == schedule(99) == np.float32(0.1)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(("initial", "final"), [(1, 5), (1, 15), (10, 1), (2, 21)])
def test_floors_of_linear_between_integers_are_exact(initial, final):
    # linear(1, 15, 49) is 7 at step 21: with a slope rounded first 6.9999995, so 6
    lengths = (1, 3, 7, 10, 23, 30, 46, 49, 60, 92, 100, 111, 148, 158, 184)

    @jax.jit
    def floors(steps):
        schedules = [linear(initial, final, num_steps) for num_steps in lengths]
        in_one = [jnp.floor(schedule(steps)) for schedule in schedules]
        one_by_one = jax.lax.map(
            lambda step: [jnp.floor(schedule(step)) for schedule in schedules], steps
        )
        return in_one, one_by_one

    for num_steps, *computed in zip(
        lengths, *floors(jnp.arange(max(lengths) + 2)), strict=True
    ):
        rise = Fraction(final - initial, num_steps)
        exact = [
            floor(initial + rise * min(step, num_steps))
            for step in range(num_steps + 2)
        ]
        for values in computed:
            np.testing.assert_array_equal(values[: num_steps + 2], exact)
