"""One training run under a teacher, to an exact budget, every cost counted apart."""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from attent_jax.data import ArrayPool, epoch_order
from attent_jax.schedules import TeachingPlan, teaching_plan
from attent_jax.scores import ScoreTable
from attent_jax.training import Timer, TrainState, score_pool
from attent_jax.typing import Params, ScoreFn, Teacher
from experiments.comparison import Row

SCORE_COST = 1 / 3
"""An example scored, in examples trained: one forward of forward + 2 × backward."""


class Method(NamedTuple):
    """A way to choose examples."""

    name: str
    build_teacher: Callable[[int], Teacher]
    """`(num_epochs) -> teacher`; how many epochs there are follows from the budget."""
    scores_by_pass: bool = False
    """Whether scores come from a scoring pass, and cost; else from training."""


class Learner(NamedTuple):
    """What is trained: functions compiled once, for all methods and seeds."""

    init: Callable[[int, int], TrainState]
    """`(seed, num_steps) -> state`, the learning rate decaying over `num_steps`."""
    train_step: Callable
    """`(state, table, batch, ids, weights) -> (state, table, loss)`"""
    score_fn: ScoreFn
    evaluate: Callable[[Params, ArrayPool], dict[str, float]]
    """`(params, held_out) -> measures`, "quality" among them."""
    batch_size: int
    score_batch_size: int
    step_flops: float
    """Of a training step, as XLA counts them."""
    score_flops: float
    """Of scoring one example."""


class Epoch(NamedTuple):
    """What a run's observer is told after each epoch."""

    epoch: int
    step: int
    """Steps taken so far …"""
    num_steps: int
    """… of so many."""
    cost_examples: float
    """Examples trained on so far, plus a third per example scored."""
    num_selected: int
    loss: float
    """Mean training loss over the epoch."""
    measures: dict[str, float]
    """Of the evaluation after the epoch; empty if there was none."""


def teach(
    method: Method,
    learner: Learner,
    pool: ArrayPool,
    held_out: ArrayPool,
    *,
    seed: int,
    budget: float,
    eval_every: float,
    observe: Callable[[Epoch], None],
) -> tuple[Row, Bool[np.ndarray, "epochs pool"]]:
    """Train once; return the row, and which examples each epoch taught.

    Args:
      method: how examples are chosen.
      learner: what is trained.
      pool: the examples to learn from.
      held_out: the examples to evaluate on.
      seed: of parameters, order and selection.
      budget: the run's cost, in examples trained (a score counts a third).
      eval_every: examples of cost between evaluations, made at the ends of epochs.
      observe: called after each epoch.
    """
    teacher, steps_per_epoch = fit_to_budget(
        method, num_examples=len(pool), batch_size=learner.batch_size, budget=budget
    )
    num_steps, timer = sum(steps_per_epoch), Timer()
    rng = jax.random.key(seed)
    teaching, table = teacher.init(len(pool)), ScoreTable.init(len(pool))
    state = learner.init(seed, num_steps)
    taught = np.zeros((len(steps_per_epoch), len(pool)), bool)
    step, num_scored, cost, next_eval, measures = 0, 0, 0.0, eval_every, {}
    for epoch, epoch_steps in enumerate(steps_per_epoch):
        with timer.phase("select") as wait:
            scores = wait(table.scores)
        if method.scores_by_pass and teacher.needs_scores(teaching):
            with timer.phase("score") as wait:
                scores = wait(
                    score_pool(
                        learner.score_fn,
                        state.params,
                        pool,
                        batch_size=learner.score_batch_size,
                    )
                )
            num_scored += len(pool)
        with timer.phase("select"):
            epoch_rng = jax.random.fold_in(rng, epoch)
            teaching, _ = teacher.update(epoch_rng, teaching, scores)
            order = epoch_order(teaching.selection, learner.batch_size, (seed, epoch))
        losses = []
        with timer.phase("train") as wait:
            batches = zip(order.ids, order.weights, strict=True)
            for ids, weights in itertools.islice(batches, epoch_steps):
                state, table, loss = learner.train_step(
                    state, table, pool.take(ids), ids, weights
                )
                losses.append(loss)
            wait(state)
        step += epoch_steps
        taught[epoch, order.ids[:epoch_steps]] = True
        cost = step * learner.batch_size + num_scored * SCORE_COST
        evaluated = cost >= next_eval or step == num_steps
        if evaluated:
            next_eval = cost + eval_every
            with timer.phase("eval"):
                measures = learner.evaluate(state.params, held_out)
        observe(
            Epoch(
                epoch=epoch,
                step=step,
                num_steps=num_steps,
                cost_examples=cost,
                num_selected=int(teaching.selection.num_selected),
                loss=float(jnp.mean(jnp.stack(losses))),
                measures=measures if evaluated else {},
            )
        )
    seconds = timer.seconds
    row = Row(
        method=method.name,
        seed=seed,
        quality=measures["quality"],
        wall_train_s=seconds["train"],
        wall_score_s=seconds["score"],
        wall_select_s=seconds["select"],
        wall_eval_s=seconds["eval"],
        compile_s=seconds["compile"],
        cost_examples=cost,
        flops=step * learner.step_flops + num_scored * learner.score_flops,
        details={name: value for name, value in measures.items() if name != "quality"},
    )
    return row, taught


@functools.cache
def fit_to_budget(
    method: Method, *, num_examples: int, batch_size: int, budget: float
) -> tuple[Teacher, list[int]]:
    """The teacher of just as many epochs as the budget needs, and their steps.

    Every epoch is shortened by the same share, so that the plan keeps its phases: each
    then teaches a random part of its selection. The steps' sum is the length of the
    learning-rate schedule. Kept for a method's next seed, with what it compiled.
    """
    score_cost = SCORE_COST * method.scores_by_pass

    def plan_of(num_epochs: int) -> tuple[Teacher, TeachingPlan, float]:
        teacher = method.build_teacher(num_epochs)
        plan = teaching_plan(
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
    """The plan's steps per epoch, shortened alike to cost `budget` examples."""
    affordable = (budget - plan.num_scored * score_cost) / plan.batch_size
    ends = np.cumsum(plan.steps_per_epoch) * (np.ceil(affordable) / plan.num_steps)
    return np.diff(np.rint(ends).astype(int), prepend=0).tolist()
