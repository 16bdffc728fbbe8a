"""The teacher of the paper, and two special cases of it."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from attent_jax._checks import (
    MAX_COUNT,
    check_count,
    check_number,
    check_rng,
    check_select_fn,
    pool_scores,
    structure_of,
)
from attent_jax._factories import described
from attent_jax.schedules import constant
from attent_jax.scores._transforms import check_transform
from attent_jax.selectors import uniform
from attent_jax.teachers._schedule_values import check_schedule, eager_check
from attent_jax.typing import (
    Schedule,
    ScoreTransform,
    SelectFn,
    Selection,
    Teacher,
    TeacherInfo,
    TeacherState,
)

_NEVER = 2**30  # an epoch no training reaches; exact in float32, and its double fits


@described
def attent(
    select_fn: SelectFn,
    ratio: float | Schedule,
    interval: int | Schedule = 1,
    num_warmup_epochs: float = 1,
    *,
    score_transform: ScoreTransform | None = None,
    num_epochs: int | None = None,
    num_final_epochs: float = 0,
) -> Teacher:
    """AtteNT: score the pool, select examples, and train on them for some epochs.

    After the warm-up epochs w the pool is scored and a subset selected at epochs w,
    w + interval, …. In between, training is on the selection alone, each example once
    an epoch. `ratio` and `interval` are numbers or schedules of the epoch; a new
    selection takes max(1, floor(ratio · pool)) examples and lasts floor(interval)
    epochs. The last interval may be cut short by the end of training.

    Warm-up and final epochs train on the full pool. Both counts may have a fraction,
    which is one more epoch on a uniform draw of that share of the pool, after the
    warm-up's full epochs and before the final ones: 0.5 is one epoch on half of it.

    Args:
      select_fn: which examples, e.g. `selectors.gumbel_top_k(0.5)`.
      ratio: share of the pool per selection, in (0, 1].
      interval: epochs between selections, >= 1.
      num_warmup_epochs: before the first selection, >= 0.
      score_transform: applied to the scores before `select_fn` sees them, e.g.
        `scores.standardize()`. It is updated only where a selection is due, since
        only then are the scores fresh: `scores.ema(0.9)` averages over selections,
        not over epochs. Its state is the field `score_transform` of the teacher's.
      num_epochs: of the whole training; needed only for final epochs. Give
        `teachers.plan` the same number.
      num_final_epochs: at the end, on the full pool, >= 0.

    Returns:
      A `Teacher`. Call its `update` once before each epoch, and where `needs_scores`
      is true give it fresh scores, from a scoring pass (`training.score_pool`) or
      from the losses seen in training (`scores.ScoreTable`). In other epochs the
      values of the scores are not read.

    Raises:
      ValueError: for a ratio outside (0, 1], an interval below 1, negative warm-up or
        final epochs, final epochs without `num_epochs`, or more warm-up and final
        epochs than `num_epochs`. A schedule's values are checked by `teachers.plan`
        for all epochs, and by each `update` that is not traced. Under `jit` they are
        clamped: a ratio to (0, 1], an interval to at least 1, NaN to 1.
      TypeError: for arguments of other types, e.g. a selector's factory in place of
        the selector.

    Example:
      >>> import jax, jax.numpy as jnp, attent_jax
      >>> teacher = attent_jax.teachers.attent(
      ...     attent_jax.selectors.top_k(), ratio=0.5, interval=2)
      >>> scores, state = jnp.array([3.0, 1.0, 2.0, 4.0]), teacher.init(4)
      >>> for epoch in range(4):
      ...     due = bool(teacher.needs_scores(state))
      ...     state, info = teacher.update(jax.random.key(epoch), state, scores)
      ...     ids = state.selection.indices[:int(state.selection.num_selected)]
      ...     print(epoch, due, ids.tolist())
      0 False [0, 1, 2, 3]
      1 True [0, 3]
      2 False [0, 3]
      3 True [0, 3]

    Reference: Nonparametric Teaching of Attention Learners (arXiv 2602.20461), Alg. 1
    and section 5, which adopts a rising ratio, a growing interval and Soft selection.
    """
    check_select_fn("select_fn", select_fn)
    is_scheduled = callable(ratio) or callable(interval)
    if callable(ratio):
        check_schedule("ratio", ratio)
        ratio_at = ratio
    else:
        ratio = check_number("ratio", ratio, low=0, high=1, low_excluded=True)
        ratio_at = constant(ratio)
    if callable(interval):
        check_schedule("interval", interval)
        interval_at = interval
    else:
        interval_at = constant(check_count("interval", interval))
    if score_transform is None:
        score_transform = ScoreTransform(lambda num_examples: (), lambda *args: args)
    check_transform("score_transform", score_transform)
    warmup = check_number("num_warmup_epochs", num_warmup_epochs, low=0, high=_NEVER)
    final = check_number("num_final_epochs", num_final_epochs, low=0, high=_NEVER)
    first_taught = math.ceil(warmup)
    first_final = _NEVER
    if num_epochs is not None:
        first_final = check_count("num_epochs", num_epochs) - math.ceil(final)
        if first_final < first_taught:
            raise ValueError(
                f"num_warmup_epochs={warmup:g} and num_final_epochs={final:g} do not "
                f"fit into num_epochs={num_epochs}: shorten them."
            )
    elif final:
        raise ValueError(
            f"num_final_epochs={final:g} needs num_epochs: pass the number of epochs "
            f"so that the teacher knows where the end is."
        )
    draw = uniform()
    check_values = eager_check(ratio_at, interval_at, first_taught, first_final)

    def is_taught(epoch):
        return (first_taught <= epoch) & (epoch < first_final)

    def needs_scores(state: TeacherState):
        """`(state) -> []` whether the next `update` reads its scores."""
        _check_state(state)
        return is_taught(state.epoch) & (state.next_selection <= state.epoch)

    def num_taught(epoch, pool_size):
        if not callable(ratio):
            return _share(ratio, pool_size)  # in Python's floats
        share = jnp.asarray(ratio(epoch), float)
        asked = jnp.floor(jnp.clip(share, 0, 1) * pool_size).astype(jnp.int32)
        # Not share >= 1, so that NaN is the full pool; the product may round up.
        return jnp.where(share < 1, jnp.clip(asked, 1, pool_size), pool_size)

    def num_untaught(epoch, pool_size):
        """Examples in a warm-up or a final epoch: all, or the fraction's share."""
        warming = jnp.where(
            epoch < math.floor(warmup), pool_size, _share(warmup % 1, pool_size)
        )
        ending = jnp.where(
            epoch >= first_final + math.ceil(final % 1),
            pool_size,
            _share(final % 1, pool_size),
        )
        return jnp.where(epoch < first_taught, warming, ending)

    def init(num_examples: int) -> TeacherState:
        """`(num_examples) -> state` before the first epoch, for a pool of that size."""
        num_examples = check_count("num_examples", num_examples, maximum=MAX_COUNT)
        return TeacherState(
            epoch=jnp.zeros((), jnp.int32),
            next_selection=jnp.zeros((), jnp.int32),
            selection=Selection(
                indices=lax.iota(jnp.int32, num_examples),
                weights=jnp.ones(num_examples, jnp.float32),
                num_selected=jnp.array(num_examples, jnp.int32),
            ),
            score_transform=score_transform.init(num_examples),
        )

    @jax.jit
    def next_state(rng, state, scores):
        pool_size = scores.size
        expected = structure_of(lambda: score_transform.init(pool_size))
        given = jax.tree.structure(state.score_transform)
        if expected is not None and given != expected:
            raise ValueError(
                "state is of a teacher with another score_transform: make it with this "
                "teacher's init."
            )
        epoch, taught, due = state.epoch, is_taught(state.epoch), needs_scores(state)
        num_selected = jnp.where(
            taught, num_taught(epoch, pool_size), num_untaught(epoch, pool_size)
        ).astype(jnp.int32)
        lasting = jnp.nan_to_num(jnp.asarray(interval_at(epoch), float), nan=0)
        lasting = jnp.floor(jnp.clip(lasting, -_NEVER, _NEVER)).astype(jnp.int32)
        clamped = jnp.maximum(lasting, 1)

        def draw_uniformly():
            # Zeros, since a selector may read NaN as "no score".
            selection = draw(rng, jnp.zeros_like(scores), num_selected)
            return selection, state.score_transform

        def select():
            transformed, new = score_transform.update(scores, state.score_transform)
            return select_fn(rng, transformed, num_selected), new

        selection, transform_state = lax.switch(
            jnp.where(due, 2, (~taught).astype(jnp.int32)),
            [lambda: (state.selection, state.score_transform), draw_uniformly, select],
        )
        new_state = TeacherState(
            epoch=epoch + 1,
            next_selection=jnp.where(due, epoch + clamped, state.next_selection),
            selection=selection,
            score_transform=transform_state,
        )
        drawn = num_selected.astype(float) / pool_size
        info = TeacherInfo(
            epoch=epoch,
            ratio=jnp.where(taught, jnp.asarray(ratio_at(epoch), float), drawn),
            interval=jnp.where(taught, lasting, clamped),
            is_reselected=due,
        )
        return new_state, info

    def update(rng, state, scores):
        """`(rng, state, scores[pool]) -> (state, info)`; call it before each epoch.

        `state.selection` of the result is what to train on in the epoch. The scores
        are read only where `needs_scores(state)`; pass zeros in other epochs.
        """
        _check_state(state)
        check_rng("rng", rng)
        scores, pool_size = pool_scores(scores), state.selection.indices.size
        if scores.shape != (pool_size,):
            raise ValueError(
                f"scores must have shape ({pool_size},), one per example of the pool "
                f"the teacher was initialised for, got {scores.shape}: pass the whole "
                f"pool's scores, in id order; zeros while none are due."
            )
        if is_scheduled:
            check_values(state.epoch)
        return next_state(rng, state, scores)

    return Teacher(init, jax.jit(needs_scores), update)


def _check_state(state: Any) -> None:
    if not isinstance(state, TeacherState):
        raise TypeError(
            f"state must be a TeacherState, got {type(state).__name__}: make one with "
            f"teacher.init(len(pool)), and pass (rng, state, scores)."
        )


def _share(ratio: float, pool_size: int) -> int:
    return max(1, math.floor(ratio * pool_size))


@described
def one_shot(
    select_fn: SelectFn, ratio: float, num_warmup_epochs: float = 1
) -> Teacher:
    """Select once, after the warm-up, and train on that selection to the end.

    The paper's setting for fine-tuning: per-example losses are recorded while the
    warm-up trains (`scores.ScoreTable`), so scores cost nothing, and the hardest 70 %
    are kept.

    Args:
      select_fn: which examples, e.g. `selectors.top_k()`.
      ratio: share of the pool kept, in (0, 1].
      num_warmup_epochs: epochs on the full pool before the selection, >= 0.

    Returns:
      A `Teacher`.

    Raises:
      ValueError, TypeError: as in `attent`.

    Example:
      >>> import attent_jax
      >>> teacher = attent_jax.teachers.one_shot(attent_jax.selectors.top_k(), 0.7)
      >>> print(attent_jax.teachers.plan(
      ...     teacher, num_examples=1000, num_epochs=4, batch_size=50))
      epoch  scores  num_selected  steps
          0       -          1000     20
          1     yes           700     14
          2       -           700     14
          3       -           700     14

    Reference: Nonparametric Teaching of Attention Learners (arXiv 2602.20461),
    section 5.1.
    """
    return attent(
        select_fn, ratio, interval=_NEVER, num_warmup_epochs=num_warmup_epochs
    )


@described
def full() -> Teacher:
    """Train on the full pool in every epoch, as usual.

    Returns:
      A `Teacher` that never needs scores.

    Example:
      >>> import attent_jax
      >>> print(attent_jax.teachers.plan(
      ...     attent_jax.teachers.full(),
      ...     num_examples=1000, num_epochs=2, batch_size=64))
      epoch  scores  num_selected  steps
          0       -          1000     16
          1       -          1000     16
    """
    return attent(uniform(), ratio=1.0, num_warmup_epochs=_NEVER)
