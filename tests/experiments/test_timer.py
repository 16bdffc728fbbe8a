"""The timer's accounts (no test here depends on how fast anything is)."""

import time

import jax
import jax.numpy as jnp
import pytest

from experiments.study.timer import Timer


def test_compilation_is_apart_and_only_where_it_happens():
    timer = Timer()
    double = jax.jit(lambda x: jnp.sin(x) * 2 + 1)
    argument = jnp.ones(8)
    with timer.phase("train") as wait:
        wait(double(argument))
    compiling = timer.seconds["compile"]
    assert compiling > 0
    with timer.phase("train") as wait:
        wait(double(argument))
    assert timer.seconds["compile"] == compiling
    double(jnp.ones(9))  # outside of all phases: not counted
    assert timer.seconds["compile"] == compiling


def test_phases_add_up_to_the_wall_time():
    timer, start = Timer(), time.perf_counter()
    for name in ("train", "score", "train"):
        with timer.phase(name):
            time.sleep(0.02)
            jax.jit(lambda x: x + len(name))(1.0)  # noqa: B023
    elapsed = time.perf_counter() - start
    assert set(timer.seconds) == {"train", "score", "compile"}
    assert timer.seconds["train"] >= 0.04
    assert timer.seconds["score"] >= 0.02
    # compile seconds counted twice would exceed the whole
    assert sum(timer.seconds.values()) <= elapsed


def failing_phase(timer):
    with timer.phase("train"):
        time.sleep(0.01)
        raise KeyError("lost")


def test_a_phase_that_raises_still_counts_and_stops_listening():
    timer = Timer()
    with pytest.raises(KeyError, match="lost"):
        failing_phase(timer)
    assert timer.seconds["train"] >= 0.01
    before = dict(timer.seconds)
    jax.jit(lambda x: x * 3 + 7)(jnp.ones(3)).block_until_ready()
    assert dict(timer.seconds) == before


def test_a_phase_waits_for_what_it_is_handed():
    with Timer().phase("train") as wait:
        tree = {"a": jnp.ones(2), "b": [jnp.zeros(3)]}
        assert wait(tree) is tree
