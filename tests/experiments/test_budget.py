"""Budgets: every method costs exactly what it was given."""

import functools

import numpy as np
import pytest

from attent_jax import teachers
from experiments.study.budget import fit_to_budget
from experiments.study.methods import STANDARD_METHODS

NUM_EXAMPLES, BATCH_SIZE = 1000, 50
METHODS = {method.name: method for method in STANDARD_METHODS}
PLANS = ("full", "random", "balanced", "attent-hard", "recommended", "in-batch")
"""A method of each plan and kind of cost."""


def fit(name, *, budget, score_cost=1 / 3):
    return fit_to_budget(
        METHODS[name],
        num_examples=NUM_EXAMPLES,
        batch_size=BATCH_SIZE,
        budget=budget,
        score_cost=score_cost,
    )


@functools.cache
def own_plan(name, num_epochs):
    """The teacher's plan before it is cut."""
    teacher = METHODS[name].teacher(
        num_epochs, groups=np.arange(NUM_EXAMPLES) % 3, mesh=None
    )
    return teachers.plan(
        teacher, num_examples=NUM_EXAMPLES, num_epochs=num_epochs, batch_size=BATCH_SIZE
    )


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize(("budget", "score_cost"), [(4000, 1 / 3), (3050, 1 / 2)])
def test_the_budget_is_spent_to_the_step(name, budget, score_cost):
    budgeted = fit(name, budget=budget, score_cost=score_cost)
    steps, plan = budgeted.steps_per_epoch, own_plan(name, budgeted.num_epochs)
    share = sum(steps) / plan.num_steps
    assert share <= 1
    if METHODS[name].make_teacher is not METHODS["full"].make_teacher:
        # All epochs are shortened alike: cutting the end would drop the final phase.
        np.testing.assert_allclose(steps, share * plan.steps_per_epoch, atol=1)
    assert np.all(np.array(steps) > 0)
    step_cost = BATCH_SIZE * (score_cost + 0.5 if name == "in-batch" else 1)
    assert budgeted.step_cost == pytest.approx(step_cost)
    assert budgeted.score_cost == score_cost
    scores_by_pass = name in ("attent-soft", "attent-hard")
    spent = sum(steps) * step_cost + plan.num_scored * score_cost * scores_by_pass
    assert budget <= spent + 1e-6 < budget + step_cost + 2e-6


def test_scoring_costs_the_paper_steps_that_random_gets_back():
    score_cost = 1 / 3
    steps = {
        name: sum(fit(name, budget=4000).steps_per_epoch)
        for name in ("attent-hard", "random")
    }
    assert steps["random"] == 4000 / BATCH_SIZE
    assert steps["attent-hard"] < steps["random"]
    scorings = (steps["random"] - steps["attent-hard"]) * BATCH_SIZE
    # Whole passes, to within the step that rounds the budget up.
    passes = scorings / (NUM_EXAMPLES * score_cost)
    assert abs(passes - round(passes)) * NUM_EXAMPLES * score_cost <= BATCH_SIZE


def test_a_step_within_the_batch_costs_its_scores_and_its_share():
    full, in_batch = fit("full", budget=4000), fit("in-batch", budget=4000)
    assert full.step_cost == BATCH_SIZE
    assert in_batch.step_cost == pytest.approx(BATCH_SIZE * 5 / 6)
    assert sum(in_batch.steps_per_epoch) == sum(full.steps_per_epoch) * 6 / 5


def test_rounding_adds_no_step_that_the_selection_does_not_have():
    # 160 / (8 · (1/3 + 1/2)) is 24.000000000000004, and 25 steps are not in 3 epochs.
    budgeted = fit_to_budget(
        METHODS["in-batch"], num_examples=64, batch_size=8, budget=160, score_cost=1 / 3
    )
    assert budgeted.steps_per_epoch == (8, 8, 8)


def test_a_budget_of_less_than_a_step_an_epoch_is_refused():
    with pytest.raises(
        ValueError, match="recommended: a budget of 60 examples is less"
    ):
        fit("recommended", budget=60)


@pytest.mark.parametrize("num_epochs", range(3, 9))
def test_a_plan_that_costs_just_its_budget_gets_no_step_more(num_epochs):
    plan, score_cost = own_plan("attent-hard", num_epochs), 1 / 3
    budget = plan.num_steps * BATCH_SIZE + plan.num_scored * score_cost
    budgeted = fit("attent-hard", budget=budget)
    epochs = own_plan("attent-hard", budgeted.num_epochs).steps_per_epoch
    assert np.all(np.array(budgeted.steps_per_epoch) <= epochs)


@pytest.mark.parametrize("num_epochs", [0.5, 1, 1.5, 2, 3.25])
def test_full_training_uses_the_pool_up_before_an_example_comes_again(num_epochs):
    plan = fit("full", budget=1000 * num_epochs)
    whole, rest = divmod(sum(plan.steps_per_epoch), 1000 // BATCH_SIZE)
    expected = (1000 // BATCH_SIZE,) * whole + ((rest,) if rest else ())
    assert plan.steps_per_epoch == expected
