"""What holds for every schedule."""

import inspect
import pickle

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


@every_schedule
def test_jax_debug_nans_and_check_tracer_leaks_report_nothing(schedule):
    with jax.debug_nans(True), jax.checking_leaks():
        assert np.isfinite(jax.jit(schedule)(jnp.int32(3)))


@every_schedule
def test_pickling_keeps_the_schedule(schedule):
    again = pickle.loads(pickle.dumps(schedule))
    assert repr(again) == repr(schedule)
    np.testing.assert_array_equal(again(STEPS), schedule(STEPS))


@every_schedule
def test_64_bit_mode_gives_float64(schedule):
    with jax.enable_x64(True):
        assert schedule(jnp.int32(3)).dtype == jnp.float64


def test_repr_is_the_call():
    assert repr(SCHEDULES["linear"]) == "linear(0.2, 0.8, 7)"
