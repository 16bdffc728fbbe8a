"""What a teaching plan costs, before it runs."""

from typing import NamedTuple

from attent_jax._checks import check_number
from attent_jax.schedules import TeachingPlan


class PlanCost(NamedTuple):
    """The cost of a plan, in the unit of `forward` and `backward`."""

    training: float
    scoring: float
    full: float
    """Full training over the same number of epochs."""

    @property
    def relative(self) -> float:
        """The plan's cost over full training's."""
        return (self.training + self.scoring) / self.full

    @property
    def can_pay(self) -> bool:
        """Whether the plan is cheaper than full training over the same epochs.

        Cheaper is not yet better: compare with full training, and with random
        subsets, at the plan's own cost.
        """
        return self.relative < 1

    def __str__(self) -> str:
        """The verdict in a sentence."""
        share = self.scoring / (self.training + self.scoring)
        verdict = f"{self.relative:.2f} of full training ({share:.0%} of it scoring)"
        if self.can_pay:
            return f"{verdict}: can pay"
        return (
            f"{verdict}: cannot pay; lower the ratio, lengthen the interval, or score "
            f"by the losses of training (score=0)"
        )


def cost(
    plan: TeachingPlan,
    *,
    forward: float = 1.0,
    backward: float = 2.0,
    score: float = 1.0,
) -> PlanCost:
    """Predict a plan's cost: taught · (F + B) + scored · score · F.

    At a constant ratio r and interval I, relative to full training: r + s / (I (1 + b))
    for a score's price s and b = B / F.

    Args:
      plan: from `teachers.plan`.
      forward: F, one example's forward pass, counted or measured in any unit.
      backward: B, one example's backward pass; about 2 F, for LoRA 1 F, and 1 F more
        under full rematerialisation.
      score: the price of one score in forward passes; 0 for the losses of training.

    Returns:
      A `PlanCost`; `print` it for the verdict.

    Raises:
      TypeError, ValueError: if forward is not positive, or a price is negative.

    Example:
      >>> import attent_jax
      >>> teacher = attent_jax.teachers.attent(
      ...     attent_jax.selectors.top_k(), ratio=0.9, num_warmup_epochs=0)
      >>> plan = attent_jax.teachers.plan(
      ...     teacher, num_examples=1000, num_epochs=10, batch_size=50)
      >>> print(attent_jax.training.cost(plan, score=0))
      0.90 of full training (0% of it scoring): can pay
      >>> attent_jax.training.cost(plan).can_pay  # scoring every epoch costs 1/3
      False
    """
    forward = check_number("forward", forward, low=0, low_excluded=True)
    backward = check_number("backward", backward, low=0)
    score = check_number("score", score, low=0)
    num_epochs = len(plan.num_selected)
    return PlanCost(
        training=plan.num_taught * (forward + backward),
        scoring=plan.num_scored * score * forward,
        full=plan.num_examples * num_epochs * (forward + backward),
    )
