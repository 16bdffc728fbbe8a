"""What every schedule keeps."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax import schedules
from tests.families import SCHEDULES

every_schedule = pytest.mark.parametrize(
    "schedule", SCHEDULES.values(), ids=SCHEDULES.keys()
)
STEPS = np.arange(12)


def test_the_family_is_complete():
    assert set(SCHEDULES) == set(schedules.__all__)


@every_schedule
def test_the_only_parameter_is_step(schedule):
    assert list(inspect.signature(schedule).parameters) == ["step"]


@every_schedule
def test_python_numpy_and_traced_steps_agree_in_one_trace(schedule):
    num_traces = 0

    @jax.jit
    def compiled(step):
        nonlocal num_traces
        num_traces += 1
        return schedule(step)

    for step in STEPS:
        expected = schedule(int(step))
        assert jnp.shape(expected) == ()
        assert expected.dtype == jnp.float32
        assert schedule(step) == expected
        # XLA may fold constants, which moves the last bit
        np.testing.assert_allclose(compiled(jnp.int32(step)), expected, rtol=3e-7)
    assert num_traces == 1


@every_schedule
def test_an_array_of_steps_gives_an_array_of_values(schedule):
    # so that a whole curriculum can be drawn with one call
    one_by_one = [float(schedule(step)) for step in STEPS]
    for at_once in (schedule(jnp.asarray(STEPS)), jax.vmap(schedule)(STEPS)):
        np.testing.assert_allclose(at_once, one_by_one, rtol=3e-7)
