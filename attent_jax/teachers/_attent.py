"""The teacher of the paper, and the two that are its corners."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from attent_jax._checks import check_count, check_number, check_rng
from attent_jax.schedules import constant
from attent_jax.selectors import uniform
from attent_jax.typing import (
    Schedule,
    SelectFn,
    Selection,
    Teacher,
    TeacherInfo,
    TeacherState,
)

_NEVER = 2**30  # an epoch no training reaches; exact in float32, and its double fits


def attent(
    select_fn: SelectFn,
    ratio: float | Schedule,
    interval: int | Schedule = 1,
    num_warmup_epochs: float = 1,
    *,
    num_epochs: int | None = None,
    num_final_epochs: float = 0,
) -> Teacher:
    """AtteNT: score the pool, select the examples to learn from, teach them a while.

    After the warm-up epochs w the pool is scored and a subset selected at epochs w,
    w + interval, …; training in between is on the selection alone, examples each once
    an epoch. `ratio` and `interval` are numbers or schedules of the epoch; a new
    selection takes max(1, floor(ratio · pool)) examples and lasts floor(interval)
    epochs. The interval that the end cuts short is simply shorter.

    Warm-up and final epochs train on the full pool. Both counts may have a fraction,
    which is one more epoch on a uniform draw of that share of the pool, after the
    warm-up's full epochs and before the final ones: 0.5 is one epoch on half of it.

    Args:
      select_fn: which examples, e.g. `selectors.gumbel_top_k(0.5)`.
      ratio: share of the pool per selection, in (0, 1].
      interval: epochs between selections, >= 1.
      num_warmup_epochs: before the first selection, >= 0.
      num_epochs: of the whole training; needed only for final epochs.
      num_final_epochs: at the end, on the full pool, >= 0.

    Returns:
      A `Teacher`. Its `update` is called once before each epoch; where `needs_scores`
      says so, with fresh scores, from a scoring pass (`training.score_pool`) or from
      the losses seen in training (`scores.ScoreTable`). Else the scores' values are
      not read.

    Raises:
      ValueError: for a ratio outside (0, 1], an interval below 1, negative warm-up or
        final epochs, final epochs without `num_epochs`, or more warm-up and final
        epochs than there are. Schedules are checked over all epochs by
        `teachers.plan`.
      TypeError: for arguments of other types.

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
    and section 5; ratio rising, interval growing, Soft selection is what it adopts.
    """
    if not callable(select_fn):
        raise TypeError(
            f"select_fn must be a selector, got {select_fn!r}: pass e.g. "
            f"attent_jax.selectors.top_k() (called, with its parentheses)."
        )
    if callable(ratio):
        ratio_at = ratio
    else:
        ratio = check_number("ratio", ratio, low=0, high=1, low_excluded=True)
        ratio_at = constant(ratio)
    if not callable(interval):
        interval = constant(check_count("interval", interval))
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

    def is_taught(epoch):
        return (first_taught <= epoch) & (epoch < first_final)

    def is_due(state: TeacherState):
        return is_taught(state.epoch) & (state.next_selection <= state.epoch)

    def num_taught(epoch, pool_size):
        if not callable(ratio):
            return _share(ratio, pool_size)  # in Python's floats
        asked = jnp.floor(ratio(epoch) * pool_size).astype(jnp.int32)
        return jnp.clip(asked, 1, pool_size)

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
        num_examples = check_count("num_examples", num_examples)
        return TeacherState(
            epoch=jnp.zeros((), jnp.int32),
            next_selection=jnp.zeros((), jnp.int32),
            selection=Selection(
                indices=lax.iota(jnp.int32, num_examples),
                weights=jnp.ones(num_examples, jnp.float32),
                num_selected=jnp.array(num_examples, jnp.int32),
            ),
        )

    def update(rng, state, scores):
        check_rng("rng", rng)
        pool_size = state.selection.indices.size
        if jnp.shape(scores) != (pool_size,):
            raise ValueError(
                f"scores must have shape ({pool_size},), one per example of the pool "
                f"the teacher was initialised for, got {jnp.shape(scores)}: pass the "
                f"whole pool's scores, in id order; zeros while none are due."
            )
        epoch, taught, due = state.epoch, is_taught(state.epoch), is_due(state)
        num_selected = jnp.where(
            taught, num_taught(epoch, pool_size), num_untaught(epoch, pool_size)
        ).astype(jnp.int32)
        epochs = jnp.minimum(jnp.floor(interval(epoch)), _NEVER).astype(jnp.int32)
        selection = lax.switch(
            jnp.where(due, 2, ~taught),
            [
                lambda: state.selection,
                lambda: draw(rng, scores, num_selected),
                lambda: select_fn(rng, scores, num_selected),
            ],
        )
        next_selection = jnp.where(
            due, epoch + jnp.maximum(epochs, 1), state.next_selection
        )
        info = TeacherInfo(
            epoch=epoch,
            ratio=jnp.where(taught, ratio_at(epoch), num_selected / pool_size),
            interval=epochs,
            is_reselected=due,
        )
        return TeacherState(epoch + 1, next_selection, selection), info

    return Teacher(init, jax.jit(is_due), jax.jit(update))


def _share(ratio: float, pool_size: int) -> int:
    return max(1, math.floor(ratio * pool_size))


def one_shot(
    select_fn: SelectFn, ratio: float, num_warmup_epochs: float = 1
) -> Teacher:
    """Select once, after the warm-up, and teach that selection to the end.

    The paper's regime for fine-tuning: per-example losses are recorded during the
    warm-up's own training passes (`scores.ScoreTable`), so that scores cost nothing,
    and the hardest 70 % are kept.

    Args:
      select_fn: which examples, e.g. `selectors.top_k()`.
      ratio: share of the pool kept, in (0, 1].
      num_warmup_epochs: epochs on the full pool before, >= 0.

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


def full() -> Teacher:
    """Teach the full pool in every epoch: training as usual.

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
