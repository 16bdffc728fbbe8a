"""Budgets: every method costs exactly what it was given."""

import numpy as np
import pytest

from attent_jax import schedules, selectors, teachers
from experiments.loop import SCORE_COST, Method, fit_to_budget

NUM_EXAMPLES, BATCH_SIZE = 1000, 50


def paper_teacher(num_epochs):
    return teachers.attent(
        selectors.top_k(),
        ratio=schedules.linear(0.2, 0.8, num_epochs),
        interval=schedules.linear(1, 5, num_epochs),
    )


METHODS = [
    Method("full", lambda num_epochs: teachers.full()),
    Method("paper", paper_teacher, scores_by_pass=True),
    Method("random", paper_teacher),
    Method("recommended", teachers.recommended),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("budget", [3000, 4000, 7350])
def test_the_budget_is_spent_to_the_batch(method, budget):
    teacher, steps = fit_to_budget(
        method, num_examples=NUM_EXAMPLES, batch_size=BATCH_SIZE, budget=budget
    )
    plan = teachers.plan(
        teacher,
        num_examples=NUM_EXAMPLES,
        num_epochs=len(steps),
        batch_size=BATCH_SIZE,
    )
    # All epochs are shortened alike: cutting the end would drop the final phase.
    share = sum(steps) / plan.num_steps
    np.testing.assert_allclose(steps, share * plan.steps_per_epoch, atol=1)
    assert np.all(np.array(steps) > 0)
    scored = plan.num_scored * SCORE_COST * method.scores_by_pass
    spent = sum(steps) * BATCH_SIZE + scored
    assert budget <= spent + 1e-6 < budget + BATCH_SIZE + 2e-6


def test_scoring_costs_the_paper_steps_that_random_gets_back():
    by_name = {method.name: method for method in METHODS}
    steps = {
        name: sum(
            fit_to_budget(
                by_name[name],
                num_examples=NUM_EXAMPLES,
                batch_size=BATCH_SIZE,
                budget=4000,
            )[1]
        )
        for name in ("paper", "random")
    }
    assert steps["random"] == 4000 / BATCH_SIZE
    assert steps["paper"] < steps["random"]
    scorings = (steps["random"] - steps["paper"]) * BATCH_SIZE
    assert np.isclose(scorings % (NUM_EXAMPLES * SCORE_COST), 0, atol=BATCH_SIZE)
