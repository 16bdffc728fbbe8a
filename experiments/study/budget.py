"""Plans cut to a budget: every method costs its budget, to within a step."""

import functools
from typing import NamedTuple

import numpy as np

from attent_jax import teachers
from attent_jax.teachers import TeachingPlan
from experiments.study.methods import Method
from experiments.study.options import OptionError

_WHOLE = 1 - 1e-9
"""The budget to rounding: 24.000000000000004 steps are 24."""


class Budgeted(NamedTuple):
    """A method's plan, cut to a budget."""

    num_epochs: int
    """Of the teacher's own plan."""
    steps_per_epoch: tuple[int, ...]
    """Their sum is the length of the learning-rate schedule."""
    step_cost: float
    """Cost of a step, in trained examples."""
    score_cost: float
    """Cost of scoring an example, in trained examples."""


@functools.cache
def fit_to_budget(
    method: Method,
    *,
    num_examples: int,
    batch_size: int,
    budget: float,
    score_cost: float,
) -> Budgeted:
    """The method's plan for as many epochs as the budget needs.

    A plan that teaches the whole pool in every epoch is cut at its end. In any other
    every epoch is shortened by the same share, so that the plan keeps its phases: an
    epoch then trains on a random part of its selection. The result is cached, so that a
    method's next seed compiles nothing.
    """
    step_cost = method.step_cost(score_cost) * batch_size
    groups = np.zeros(num_examples, np.int32)  # the plan does not depend on them

    def plan_of(num_epochs: int) -> tuple[TeachingPlan, float]:
        plan = teachers.plan(
            method.teacher(num_epochs, groups=groups, mesh=None),
            num_examples=num_examples,
            num_epochs=num_epochs,
            batch_size=batch_size,
        )
        return plan, (plan.num_steps * step_cost + scoring_of(plan)) / budget

    def scoring_of(plan: TeachingPlan) -> float:
        return plan.num_scored * score_cost if method.scores == "pass" else 0.0

    least = method.min_epochs
    num_epochs = max(least, int(budget / num_examples))
    plan, spent = plan_of(num_epochs)
    if spent > 2:
        num_epochs = max(least, int(num_epochs / spent))
        plan, spent = plan_of(num_epochs)
    while spent < _WHOLE:
        num_epochs = max(num_epochs + 1, int(num_epochs / spent))
        plan, spent = plan_of(num_epochs)
    while num_epochs > least and (fewer := plan_of(num_epochs - 1))[-1] >= _WHOLE:
        num_epochs, (plan, _) = num_epochs - 1, fewer
    num_steps = np.ceil(_WHOLE * (budget - scoring_of(plan)) / step_cost)
    if num_steps < len(plan.steps_per_epoch):
        raise OptionError(
            f"{method.name}: a budget of {budget:,.0f} examples is less than a step an "
            f"epoch: train for more epochs, or leave the method out of --methods."
        )
    ends = np.cumsum(plan.steps_per_epoch)
    if np.all(plan.num_selected == num_examples):
        ends = np.minimum(ends, num_steps)
    else:
        ends = ends * (num_steps / plan.num_steps)
    steps_per_epoch = np.diff(np.rint(ends).astype(int), prepend=0)
    return Budgeted(num_epochs, tuple(steps_per_epoch.tolist()), step_cost, score_cost)
