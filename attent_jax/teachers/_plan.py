"""What a teacher will ask for in every epoch, before training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from attent_jax._checks import MAX_COUNT, check_count, check_number, shown
from attent_jax.teachers._plan_cost import PlanCost
from attent_jax.teachers._schedule_values import check_values
from attent_jax.typing import Teacher


class TeachingPlan(NamedTuple):
    """What happens in each epoch; arrays are `[num_epochs]`, in NumPy."""

    num_examples: int
    """Examples in the pool."""
    batch_size: int
    """Examples in a training step, padding included."""
    needs_scores: Bool[np.ndarray, "epochs"]
    """Whether the pool's scores are read before the epoch."""
    num_selected: Int[np.ndarray, "epochs"]
    """Examples trained on in the epoch, each once."""

    @property
    def steps_per_epoch(self) -> Int[np.ndarray, "epochs"]:
        """Training steps of each epoch; a last batch that is not full is a step."""
        return -(-self.num_selected // self.batch_size)

    @property
    def num_steps(self) -> int:
        """Training steps in all epochs: the length of the learning-rate schedule."""
        return int(self.steps_per_epoch.sum())

    @property
    def num_taught(self) -> int:
        """Examples trained on, summed over epochs."""
        return int(self.num_selected.sum())

    @property
    def num_scored(self) -> int:
        """Examples scored, summed over epochs, where a scoring pass scores them."""
        return int(self.needs_scores.sum()) * self.num_examples

    def cost(
        self, forward: float = 1.0, backward: float = 2.0, score: float = 1.0
    ) -> PlanCost:
        """Predict the plan's cost: taught · (F + B) + scored · score · F.

        At a constant ratio r and interval I the cost relative to full training is
        r + s / (I (1 + b)), with s = `score` and b = B / F.

        Args:
          forward: F, the cost of one example's forward pass, in any unit.
          backward: B, the cost of one example's backward pass: about 2 F, for LoRA
            1 F, and 1 F more under full rematerialisation.
          score: the cost of one score in forward passes; 0 if scores are the losses
            of training.

        Returns:
          A `PlanCost`; `print` it for a summary.

        Raises:
          TypeError, ValueError: if `forward` is not positive, or another cost is
            negative.

        Example:
          >>> import attent_jax
          >>> teacher = attent_jax.teachers.attent(
          ...     attent_jax.selectors.top_k(), ratio=0.9, num_warmup_epochs=0)
          >>> plan = attent_jax.teachers.plan(
          ...     teacher, num_examples=1000, num_epochs=10, batch_size=50)
          >>> print(plan.cost(score=0))
          cheaper: 0.90 of full training's cost, 0% of it scoring
          >>> plan.cost().is_cheaper  # scoring adds a third of full training's cost
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
    """Run a teacher without a learner, and record what it asks for in each epoch.

    The plan is made by the teacher's own `update`, so it is exact. Take the length of
    the learning-rate schedule from `plan.num_steps`.

    Args:
      teacher: any teacher whose counts do not depend on the scores' values.
      num_examples: the pool's size, `len(pool)`; less than 2**31.
      num_epochs: epochs to train, the number of calls of `teacher.update`. Where the
        teacher was built with `num_epochs`, give the same number: the plan shows what
        the teacher does, and its final epochs begin where its own number puts them.
      batch_size: examples in a training step; less than 2**31.

    Returns:
      A `TeachingPlan`; `print(plan)` shows the table.

    Raises:
      TypeError: if `teacher` is not a teacher, or a count is not an integer.
      ValueError: if a count is below 1 or too large, or if in an epoch the teacher's
        ratio is outside (0, 1] or its interval is below 1.

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
    _check_teacher(teacher)
    num_examples = check_count("num_examples", num_examples, maximum=MAX_COUNT)
    num_epochs = check_count("num_epochs", num_epochs, maximum=MAX_COUNT)
    batch_size = check_count("batch_size", batch_size, maximum=MAX_COUNT)

    def epoch(state, _):
        needs_scores = teacher.needs_scores(state)
        scores = jnp.zeros(num_examples)
        state, info = teacher.update(jax.random.key(0), state, scores)
        return state, (needs_scores, state.selection.num_selected, info)

    @jax.jit
    def rehearse():
        state = teacher.init(num_examples)
        return jax.lax.scan(epoch, state, length=num_epochs)[1]

    needs_scores, num_selected, info = jax.device_get(rehearse())
    check_values(info.epoch, info.ratio, info.interval)
    return TeachingPlan(num_examples, batch_size, needs_scores, num_selected)


def _check_teacher(teacher: Any) -> None:
    if not all(callable(getattr(teacher, part, None)) for part in Teacher._fields):
        raise TypeError(
            f"teacher must be a Teacher, got {shown(teacher)}: pass e.g. "
            f"attent_jax.teachers.full() (called, with its parentheses)."
        )
