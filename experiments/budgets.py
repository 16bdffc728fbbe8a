"""Plans cut to a budget: every method costs its budget, to within a batch."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from attent_jax import teachers
from attent_jax.teachers import TeachingPlan
from attent_jax.typing import Teacher

SCORE_COST = 1 / 3
"""Cost of scoring an example, in trained examples: F of F + B, where B = 2 F."""


class Method(NamedTuple):
    """A way to choose examples."""

    name: str
    make_teacher: Callable[[int], Teacher]
    """`(num_epochs) -> teacher`; the number of epochs follows from the budget."""
    scores_by_pass: bool = False
    """Whether scores come from a scoring pass, which costs; else from training."""


@functools.cache
def fit_to_budget(
    method: Method, *, num_examples: int, batch_size: int, budget: float
) -> tuple[Teacher, list[int]]:
    """The teacher for as many epochs as the budget needs, and the steps of each.

    Every epoch is shortened by the same share, so that the plan keeps its phases. An
    epoch then trains on a random part of its selection. The sum of the steps is the
    length of the learning-rate schedule. The result is cached, so that a method's next
    seed compiles nothing.
    """
    score_cost = SCORE_COST * method.scores_by_pass

    def plan_of(num_epochs: int) -> tuple[Teacher, TeachingPlan, float]:
        teacher = method.make_teacher(num_epochs)
        plan = teachers.plan(
            teacher,
            num_examples=num_examples,
            num_epochs=num_epochs,
            batch_size=batch_size,
        )
        spent = plan.num_steps * batch_size + plan.num_scored * score_cost
        return teacher, plan, spent / budget

    num_epochs = max(3, int(budget / num_examples))
    teacher, plan, spent = plan_of(num_epochs)
    while spent < 1:
        num_epochs = max(num_epochs + 1, int(num_epochs / spent))
        teacher, plan, spent = plan_of(num_epochs)
    while num_epochs > 3 and (fewer := plan_of(num_epochs - 1))[-1] >= 1:
        num_epochs, (teacher, plan, _) = num_epochs - 1, fewer
    return teacher, _shortened(plan, budget, score_cost)


def _shortened(plan: TeachingPlan, budget: float, score_cost: float) -> list[int]:
    """The plan's steps per epoch, all shortened by one factor to cost `budget`."""
    affordable = (budget - plan.num_scored * score_cost) / plan.batch_size
    ends = np.cumsum(plan.steps_per_epoch) * (np.ceil(affordable) / plan.num_steps)
    return np.diff(np.rint(ends).astype(int), prepend=0).tolist()
