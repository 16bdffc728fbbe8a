"""What a teaching plan costs, before it runs."""

from typing import NamedTuple


class PlanCost(NamedTuple):
    """The cost of a plan, in the unit of `forward` and `backward`."""

    training: float
    """The cost of the training steps."""
    scoring: float
    """The cost of the scoring passes."""
    full: float
    """The cost of full training over the same number of epochs."""

    @property
    def relative(self) -> float:
        """The plan's cost divided by that of full training."""
        return (self.training + self.scoring) / self.full

    @property
    def is_cheaper(self) -> bool:
        """Whether the plan costs less than full training over the same epochs.

        A cheaper plan is not a better one: compare it with full training and with
        random subsets at the same cost.
        """
        return self.relative < 1

    def __str__(self) -> str:
        """A summary in a sentence."""
        share = self.scoring / (self.training + self.scoring)
        parts = (
            f"{self.relative:.2f} of full training's cost, {share:.0%} of it scoring"
        )
        if self.is_cheaper:
            return f"cheaper: {parts}"
        return (
            f"not cheaper: {parts}; lower the ratio, lengthen the interval, or score "
            f"by the losses of training (score=0)"
        )
