"""Schedules that leave their range: refused where concrete, clamped where traced."""

import jax
import jax.numpy as jnp
import pytest

from attent_jax import teachers
from attent_jax.schedules import linear, step
from attent_jax.selectors import top_k
from attent_jax.teachers import attent

KEY, SCORES = jax.random.key(0), jnp.arange(10.0)

# schedules, the first epoch out of range, the message; clamped: examples, interval
OUT_OF_RANGE = {
    "ratio above 1": (
        {"ratio": step([0.5, 1.5], [2])},
        r"ratio is 1.5 at epoch 2: it must be in \(0, 1\] .*change",
        (10, 1),
    ),
    "ratio 0": (
        {"ratio": step([0.5, 0.0], [2])},
        "ratio is 0 at epoch 2",
        (1, 1),
    ),
    "ratio NaN": (
        {"ratio": lambda epoch: jnp.where(epoch < 2, 0.5, jnp.nan)},
        "ratio is nan at epoch 2",
        (10, 1),
    ),
    "interval 0": (
        {"ratio": 0.5, "interval": step([1, 0], [2])},
        "interval is 0 at epoch 2: it must be at least 1",
        (5, 1),
    ),
    "interval below 1": (
        {"ratio": 0.5, "interval": step([1, 0.5], [2])},
        "interval is 0.* at epoch 2",
        (5, 1),
    ),
    "interval NaN": (
        {"ratio": 0.5, "interval": lambda e: jnp.where(e < 2, 1.0, jnp.nan)},
        "interval is (nan|0) at epoch 2",
        (5, 1),
    ),
    "interval infinite and negative": (
        {"ratio": 0.5, "interval": lambda e: jnp.where(e < 2, 1.0, -jnp.inf)},
        "interval is -.* at epoch 2",
        (5, 1),
    ),
}
every_case = pytest.mark.parametrize(
    ("arguments", "message", "clamped"), OUT_OF_RANGE.values(), ids=OUT_OF_RANGE.keys()
)


@every_case
def test_an_eager_update_refuses_the_epoch(arguments, message, clamped):
    teacher = attent(top_k(), **arguments)
    state = teacher.init(10)
    for _ in range(2):
        state, _ = teacher.update(KEY, state, SCORES)
    with pytest.raises(ValueError, match=message):
        teacher.update(KEY, state, SCORES)


@every_case
def test_the_plan_refuses_the_epoch(arguments, message, clamped):
    teacher = attent(top_k(), **arguments)
    teachers.plan(teacher, num_examples=10, num_epochs=2, batch_size=5)
    with pytest.raises(ValueError, match=message):
        teachers.plan(teacher, num_examples=10, num_epochs=3, batch_size=5)


@every_case
def test_a_traced_update_clamps(arguments, message, clamped):
    num_selected, interval = clamped
    teacher = attent(top_k(), **arguments)
    state, update = teacher.init(10), jax.jit(teacher.update)
    for _ in range(3):
        state, _ = update(KEY, state, SCORES)
    assert int(state.selection.num_selected) == num_selected
    assert int(state.next_selection) == 2 + interval


def test_values_of_warm_up_and_final_epochs_are_not_used():
    ratio = linear(0.0, 1.0, 4)  # 0 in the warm-up's epoch 0
    interval = step([0, 1, 0], [1, 3])  # 0 in epoch 0, and in the final epoch 3
    teacher = attent(top_k(), ratio, interval, num_epochs=4, num_final_epochs=1)
    plan = teachers.plan(teacher, num_examples=10, num_epochs=4, batch_size=5)
    assert plan.num_selected.tolist() == [10, 2, 5, 10]
    state = teacher.init(10)
    for _ in range(4):
        state, _ = teacher.update(KEY, state, SCORES)


def test_the_ratio_can_be_traced():
    def num_selected(ratio):
        teacher = attent(top_k(), lambda epoch: ratio, num_warmup_epochs=0)
        state, _ = teacher.update(KEY, teacher.init(10), SCORES)
        return state.selection.num_selected

    ratios = jnp.array([0.2, 0.5, 1.0])
    assert jax.vmap(num_selected)(ratios).tolist() == [2, 5, 10]


def test_a_ratio_of_1_is_the_whole_of_a_pool_beyond_float32():
    pool_size = 2**24 + 3  # in float32 2**24 + 4
    teacher = attent(top_k(), lambda epoch: 1.0, num_warmup_epochs=0)

    def num_selected():
        state = teacher.init(pool_size)
        return teacher.update(KEY, state, jnp.zeros(pool_size))[0].selection

    assert int(jax.jit(lambda: num_selected().num_selected)()) == pool_size
