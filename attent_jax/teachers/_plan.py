"""The whole curriculum as a table, before any of it runs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from attent_jax._checks import check_count, check_number
from attent_jax.teachers._plan_cost import PlanCost
from attent_jax.typing import Teacher


class TeachingPlan(NamedTuple):
    """What each epoch will do; arrays are `[num_epochs]`, on the host."""

    num_examples: int
    """Examples in the pool."""
    batch_size: int
    """Examples in a training step, padding included."""
    needs_scores: Bool[np.ndarray, "epochs"]
    """Whether the pool's scores are read before the epoch."""
    num_selected: Int[np.ndarray, "epochs"]
    """Examples taught in the epoch, each once."""

    @property
    def steps_per_epoch(self) -> Int[np.ndarray, "epochs"]:
        """Training steps of each epoch, the ragged last batch counted."""
        return -(-self.num_selected // self.batch_size)

    @property
    def num_steps(self) -> int:
        """All training steps: the length of the learning-rate schedule."""
        return int(self.steps_per_epoch.sum())

    @property
    def num_taught(self) -> int:
        """Examples trained on, summed over epochs."""
        return int(self.num_selected.sum())

    @property
    def num_scored(self) -> int:
        """Examples scored, summed over epochs, if scores come from a scoring pass."""
        return int(self.needs_scores.sum()) * self.num_examples

    def cost(
        self, forward: float = 1.0, backward: float = 2.0, score: float = 1.0
    ) -> PlanCost:
        """Predict the plan's cost: taught · (F + B) + scored · score · F.

        At a constant ratio r and interval I the cost relative to full training is
        r + s / (I (1 + b)), for the score's price s and b = B / F.

        Args:
          forward: F, one example's forward pass, counted or measured in any unit.
          backward: B, one example's backward pass: about 2 F, for LoRA 1 F, and 1 F
            more under full rematerialisation.
          score: the price of one score in forward passes; 0 if scores are the losses
            of training.

        Returns:
          A `PlanCost`; `print` it for the verdict.

        Raises:
          TypeError, ValueError: if `forward` is not positive, or a price is negative.

        Example:
          >>> import attent_jax
          >>> teacher = attent_jax.teachers.attent(
          ...     attent_jax.selectors.top_k(), ratio=0.9, num_warmup_epochs=0)
          >>> plan = attent_jax.teachers.plan(
          ...     teacher, num_examples=1000, num_epochs=10, batch_size=50)
          >>> print(plan.cost(score=0))
          cheaper: 0.90 of full training's cost, 0% of it scoring
          >>> plan.cost().is_cheaper  # scoring every epoch costs a third of it
          False
        """
        forward = check_number("forward", forward, low=0, low_excluded=True)
        backward = check_number("backward", backward, low=0)
        score = check_number("score", score, low=0)
        num_epochs = len(self.num_selected)
        return PlanCost(
            training=self.num_taught * (forward + backward),
            scoring=self.num_scored * score * forward,
            full=self.num_examples * num_epochs * (forward + backward),
        )

    def __str__(self) -> str:
        """The table, one line an epoch."""
        rows = zip(
            self.needs_scores, self.num_selected, self.steps_per_epoch, strict=True
        )
        lines = [
            f"{epoch:>5}  {'yes' if scores else '-':>6}  {selected:>12}  {steps:>5}"
            for epoch, (scores, selected, steps) in enumerate(rows)
        ]
        return "\n".join(["epoch  scores  num_selected  steps", *lines])


def plan(
    teacher: Teacher, *, num_examples: int, num_epochs: int, batch_size: int
) -> TeachingPlan:
    """Run the teacher alone, without a learner, and record what it will ask for.

    The plan is the teacher's own state machine, so the two cannot disagree: ratio,
    interval, warm-up and last epochs are whatever the teacher was built with. Take
    the learning-rate schedule's length from `plan.num_steps`.

    Args:
      teacher: any teacher whose counts do not depend on the scores' values.
      num_examples: the pool's size, `len(pool)`.
      num_epochs: epochs to train, the number of calls of `teacher.update`.
      batch_size: examples in a training step.

    Returns:
      A `TeachingPlan`; `print(plan)` shows the table.

    Raises:
      TypeError: if a count is no integer.
      ValueError: if a count is below 1, or the teacher's ratio leaves (0, 1] or its
        interval falls below 1 in any epoch.

    Example:
      >>> import attent_jax
      >>> teacher = attent_jax.teachers.attent(
      ...     attent_jax.selectors.top_k(), ratio=0.25, interval=2)
      >>> plan = attent_jax.teachers.plan(
      ...     teacher, num_examples=1000, num_epochs=4, batch_size=64)
      >>> print(plan)
      epoch  scores  num_selected  steps
          0       -          1000     16
          1     yes           250      4
          2       -           250      4
          3     yes           250      4
      >>> plan.num_steps
      28
    """
    num_examples = check_count("num_examples", num_examples)
    num_epochs = check_count("num_epochs", num_epochs)
    batch_size = check_count("batch_size", batch_size)

    def epoch(state, rng):
        needs_scores = teacher.needs_scores(state)
        state, info = teacher.update(rng, state, jnp.zeros(num_examples))
        return state, (needs_scores, state.selection.num_selected, info)

    @jax.jit
    def rehearse():
        rngs = jax.random.split(jax.random.key(0), num_epochs)
        return jax.lax.scan(epoch, teacher.init(num_examples), rngs)[1]

    needs_scores, num_selected, info = jax.device_get(rehearse())
    for name, values, inside, valid in (
        ("ratio", info.ratio, (info.ratio > 0) & (info.ratio <= 1), "in (0, 1]"),
        ("interval", info.interval, info.interval >= 1, "at least 1"),
    ):
        if not inside.all():
            first = int(np.argmin(inside))
            raise ValueError(
                f"{name} is {values[first]:g} at epoch {first}: it must be {valid} in "
                f"every epoch; change the schedule's values or its num_steps."
            )
    return TeachingPlan(num_examples, batch_size, needs_scores, num_selected)
