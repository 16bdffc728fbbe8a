"""The vocabulary: what every callable of the library takes and returns.

An *example* is one datum with a stable integer id, its position in the *pool*. A
*score* says how much there is to learn from an example now (higher = teach sooner).
A *selection* is which examples are taught next. A *teacher* decides when to score
and when to select again; the *learner* is the network in training.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from attent_jax._factories import recipe

Params = PyTree
"""The learner's parameters: any pytree."""

Trainable = PyTree[bool] | Callable[[str], bool]
"""Which parameters train: True, a pytree prefix of bools, or a function of a leaf's
path, the keys joined by slashes. The others are frozen: no gradient, no optimizer
state."""

Batch = PyTree
"""Any pytree of arrays that share their leading axis, the examples."""

Rng = jax.Array | None
"""A typed key (`jax.random.key(seed)`); None, where allowed, means deterministic."""

Scores = Float[Array, "pool"]
"""One score per example. NaN: no score, taught last."""

ScoresLike = Float[Array | np.ndarray, "pool"]
"""Scores as an argument: a jax or NumPy array of any float type."""

Schedule = Callable[[Any], Any]
"""`(step) -> value`, of a step or an epoch: a Python number or a traced array. Any
optax schedule serves too."""


class LossFn(Protocol):
    """Loss of each example; you write it, train steps and scores call it.

    Do not reduce it over the batch. `rng=None` asks for the deterministic loss (no
    dropout).
    """

    def __call__(
        self, params: Params, rng: Rng, batch: Batch, /
    ) -> Float[Array, "batch"]: ...


class ApplyFn(Protocol):
    """The learner's outputs f(S), `[batch, ...]`; you write it, scores call it."""

    def __call__(
        self, params: Params, rng: Rng, batch: Batch, /
    ) -> Float[Array, "batch ..."]: ...


class OutputLossFn(Protocol):
    """Loss as a function of outputs, `[batch]` or per position `[batch, ...]`.

    You write it; scores that need ∂L/∂f differentiate it.
    """

    def __call__(
        self, outputs: Float[Array, "batch ..."], batch: Batch, /
    ) -> Float[Array, "batch ..."]: ...


class ScoreFn(Protocol):
    """Score of each example in a batch; `scores` makes it, `score_pool` calls it."""

    def __call__(
        self, params: Params, rng: Rng, batch: Batch, /
    ) -> Float[Array, "batch"]: ...


class Selection(NamedTuple):
    """Which examples to teach.

    A permutation of the whole pool with a traced count. No shape depends on the
    ratio, so a whole curriculum is traced once.
    """

    indices: Int[Array, "pool"]
    """`[pool]` the ids of all examples, the selected first."""
    weights: Float[Array, "pool"]
    """`[pool]` loss weights aligned with `indices`; 0 past `num_selected`."""
    num_selected: Int[Array, ""]
    """`[]` how many are selected."""


class SelectFn(Protocol):
    """Chooses `num_selected` examples; `selectors` makes it, teachers call it."""

    def __call__(
        self, rng: jax.Array, scores: Scores, num_selected: int | Int[Array, ""], /
    ) -> Selection: ...


class ScoreTransform(NamedTuple):
    """A map from scores to scores with a state, like an optax transformation."""

    init: Callable[[int], PyTree]
    """`(num_examples) -> state`"""
    update: Callable[[Scores, PyTree], tuple[Scores, PyTree]]
    """`(scores[pool], state) -> (scores[pool], state)`, the state with the same
    structure and dtypes in and out."""

    def __repr__(self) -> str:
        """The call that made it, e.g. `ema(0.9)`."""
        return recipe(self.update) or tuple.__repr__(self)


class TeacherState(NamedTuple):
    """What a teacher carries from epoch to epoch.

    `update` takes and returns the same pytree structure, so the state can be carried
    through `scan` and restored from a checkpoint.
    """

    epoch: Int[Array, ""]
    """`[]` the epoch that the next `update` starts."""
    next_selection: Int[Array, ""]
    """`[]` the epoch from which a new selection is due."""
    selection: Selection
    """What is being taught."""
    score_transform: PyTree = ()
    """The state of the teacher's score transform; `()` where it has none."""


class TeacherInfo(NamedTuple):
    """Diagnostics of one `update`; may be discarded."""

    epoch: Int[Array, ""]
    """`[]` the epoch just started."""
    ratio: Float[Array, ""]
    """`[]` the ratio schedule's value; in warm-up and final epochs, the share drawn."""
    interval: Int[Array, ""]
    """`[]` how many epochs a selection made now lasts, the floor of the interval
    schedule's value; below 1 where the schedule is out of range, 0 where it is NaN."""
    is_reselected: Bool[Array, ""]
    """`[]` whether this epoch's selection came from the scores given."""


class Teacher(NamedTuple):
    """A state machine, updated once per epoch, before the epoch is trained."""

    init: Callable[[int], TeacherState]
    """`(num_examples) -> state`"""
    needs_scores: Callable[[TeacherState], Bool[Array, ""]]
    """`(state) -> []` whether the next `update` reads its scores."""
    update: Callable[
        [jax.Array, TeacherState, ScoresLike], tuple[TeacherState, TeacherInfo]
    ]
    """`(rng, state, scores[pool]) -> (state, info)`"""

    def __repr__(self) -> str:
        """The call that made it, e.g. `attent(top_k(), 0.5)`."""
        return recipe(self.update) or tuple.__repr__(self)
