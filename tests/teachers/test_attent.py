"""What the teachers teach, and how many."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax import teachers
from attent_jax.schedules import linear
from attent_jax.scores import ema, trim_top
from attent_jax.selectors import gumbel_top_k, mix_uniform, top_k
from attent_jax.teachers import attent, one_shot, recommended


def taught(state) -> set[int]:
    return set(state.selection.indices[: int(state.selection.num_selected)].tolist())


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.29, 0.3, 1 / 3, 0.57, 0.7, 0.999, 1.0])
def test_a_constant_ratio_is_floored_as_python_does(ratio):
    # rounding gives 29 of 100 at 0.29 (0.29 * 100 = 28.999…), 2 of 2 at 0.999
    for pool_size in (1, 2, 3, 10, 100, 1000):
        teacher = attent(top_k(), ratio, num_warmup_epochs=0)
        plan = teachers.plan(
            teacher, num_examples=pool_size, num_epochs=1, batch_size=1
        )
        assert plan.num_selected.tolist() == [max(1, math.floor(ratio * pool_size))]


def test_a_ratio_schedule_is_floored_and_at_least_one():
    teacher = attent(top_k(), linear(0.125, 0.875, 6), num_warmup_epochs=0)
    plan = teachers.plan(teacher, num_examples=4, num_epochs=8, batch_size=1)
    assert plan.num_selected.tolist() == [1, 1, 1, 2, 2, 3, 3, 3]


def test_the_hardest_are_taught_until_the_interval_is_over():
    teacher = attent(top_k(), ratio=0.5, interval=2)
    state, history = teacher.init(4), []
    for epoch, scores in enumerate(
        [[9, 9, 9, 9], [4, 3, 2, 1], [1, 2, 3, 4], [1, 2, 3, 4], [4, 3, 2, 1]]
    ):
        state, info = teacher.update(
            jax.random.key(epoch), state, jnp.array(scores, jnp.float32)
        )
        history.append((int(info.epoch), bool(info.is_reselected), taught(state)))
    assert history == [
        (0, False, {0, 1, 2, 3}),
        (1, True, {0, 1}),
        (2, False, {0, 1}),  # though the scores have turned
        (3, True, {2, 3}),
        (4, False, {2, 3}),
    ]


def test_the_score_transform_is_applied_before_the_selection():
    teacher = attent(top_k(), 0.5, 1, 0, score_transform=trim_top(0.75))
    state, _ = teacher.update(jax.random.key(0), teacher.init(4), jnp.arange(4.0))
    assert taught(state) == {1, 2}  # 3 is trimmed


def test_the_score_transform_averages_over_selections_not_over_epochs():
    teacher = attent(top_k(), 0.25, 2, 0, score_transform=ema(0.5))
    state = teacher.init(4)
    rows = [[8.0, 0, 0, 7], [0.0, 99, 0, 0], [0.0, 0, 3, 0], [0.0, 99, 0, 0]]
    for epoch, row in enumerate(rows):
        state, _ = teacher.update(jax.random.key(epoch), state, jnp.array(row))
        assert taught(state) == {0}
    # epochs 0 and 2 only; the 99 of epochs 1 and 3 would win
    np.testing.assert_array_equal(state.score_transform.average, [4, 0, 1.5, 3.5])


def test_one_shot_keeps_its_selection():
    teacher = one_shot(top_k(), 0.5)
    state = teacher.init(4)
    state, _ = teacher.update(jax.random.key(0), state, jnp.zeros(4))
    state, _ = teacher.update(jax.random.key(1), state, jnp.array([4.0, 3, 2, 1]))
    state = state._replace(epoch=jnp.array(10**6, jnp.int32))
    assert not teacher.needs_scores(state)
    state, _ = teacher.update(jax.random.key(2), state, jnp.array([1.0, 2, 3, 4]))
    assert taught(state) == {0, 1}


def test_a_fractional_epoch_is_a_uniform_draw_that_does_not_read_the_scores():
    teacher = attent(top_k(), 0.2, 1, 0.5, num_epochs=3, num_final_epochs=0.5)
    counts = np.zeros(8)
    for seed in range(100):
        rngs = jax.random.split(jax.random.key(seed), 3)
        state, _ = teacher.update(rngs[0], teacher.init(8), jnp.arange(8.0))
        counts[list(taught(state))] += 1
        state, _ = teacher.update(rngs[1], state, jnp.arange(8.0))
        assert taught(state) == {7}
        state, _ = teacher.update(rngs[2], state, jnp.arange(8.0))
        counts[list(taught(state))] += 1
    # of 200 draws of 4 in 8, each example in 100 ± 7
    assert counts.sum() == 800
    assert (np.abs(counts - 100) < 28).all()


def test_info_reports_ratio_and_interval_of_the_epoch():
    teacher = attent(
        top_k(),
        linear(0.2, 0.6, 4),
        linear(1, 5, 4),
        num_epochs=6,
        num_final_epochs=0.5,
    )
    state, ratios, intervals = teacher.init(10), [], []
    for epoch in range(6):
        state, info = teacher.update(jax.random.key(epoch), state, jnp.zeros(10))
        ratios.append(float(info.ratio))
        intervals.append(int(info.interval))
    np.testing.assert_allclose(ratios, [1.0, 0.3, 0.4, 0.5, 0.6, 0.5], rtol=1e-6)
    assert intervals == [1, 2, 3, 4, 5, 5]


@pytest.mark.parametrize("num_epochs", [3, 4, 5, 6, 9, 12, 17, 20, 30, 45, 60])
def test_recommended_ends_on_the_full_pool_with_12_percent_of_its_examples(num_epochs):
    num_examples = 1000
    plan = teachers.plan(
        recommended(num_epochs),
        num_examples=num_examples,
        num_epochs=num_epochs,
        batch_size=50,
    )
    counts = plan.num_selected.tolist()
    assert counts[0] == 500
    final = [count for count in counts[1:] if count != 300]
    assert counts[1:] == [300] * (num_epochs - 1 - len(final)) + final
    assert all(count == num_examples for count in final[1:])
    assert not plan.needs_scores[num_epochs - len(final) :].any()
    # where a fraction would be below a teaching epoch, whole epochs come close
    assert sum(final) / sum(counts) == pytest.approx(0.12, abs=0.002)


def test_recommended_teaches_mostly_but_not_only_the_highest_losses():
    teacher = recommended()
    losses = jnp.where(jnp.arange(1000) < 300, 10.0, 0.1)
    state = teacher.init(1000)
    for epoch in range(2):
        state, _ = teacher.update(jax.random.key(epoch), state, losses)
    ids = state.selection.indices[:300]
    num_high = int((ids < 300).sum())
    # 210 drawn ∝ loss, almost all high; 90 uniform over a rest of 790, 90 of it high
    assert 202 <= num_high <= 236


def test_recommended_draws_in_proportion_to_losses_that_are_not_negative():
    losses = jax.random.exponential(jax.random.key(1), (200,))
    soft = gumbel_top_k(1.0)

    def by_log(rng, scores, num_selected):
        return soft(rng, jnp.log(scores), num_selected)

    by_hand = attent(mix_uniform(by_log, 0.3), 0.3, num_warmup_epochs=0.5)
    states = []
    for teacher in (recommended(), by_hand):
        state = teacher.init(200)
        for epoch in range(3):
            state, _ = teacher.update(jax.random.key(epoch), state, losses)
        states.append(state)
    jax.tree.map(np.testing.assert_array_equal, *states)  # bit for bit


def test_recommended_subtracts_the_least_loss_where_it_is_negative():
    # the log of a negative loss is NaN, which would make every selection uniform
    losses = jax.random.randint(jax.random.key(2), (200,), 0, 50).astype(jnp.float32)
    losses = losses.at[7].set(0.0).at[8].set(jnp.inf).at[9].set(jnp.nan)
    states = []
    for scores in (losses, losses - 30):
        teacher = recommended()
        state = teacher.init(200)
        for epoch in range(2):
            state, _ = teacher.update(jax.random.key(epoch), state, scores)
        states.append(state)
    assert 8 in taught(states[0])
    jax.tree.map(np.testing.assert_array_equal, states[0], states[1])
