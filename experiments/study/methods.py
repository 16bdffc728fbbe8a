"""The methods that every workload has: the controls, the paper's, this library's."""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from attent_jax import schedules, scores, selectors, teachers, training
from attent_jax.training import TrainState
from attent_jax.typing import Batch, LossFn, SelectFn, Teacher
from experiments.study.options import OptionError
from experiments.study.workload import Workload

Groups = Int[np.ndarray, "pool"] | None


class StepInfo(NamedTuple):
    """What the loop needs to know of a step."""

    loss: Float[Array, ""]
    is_skipped: Bool[Array, ""]
    losses: Float[Array, "batch"]
    """`[batch]` of the taught rows; of others any number."""
    is_taught: Bool[Array, "batch"]
    """`[batch]` rows that the step trained on."""


Step = Callable[
    [TrainState, jax.Array, Batch, Float[Array, "batch"]], tuple[TrainState, StepInfo]
]


class MakeTeacher(Protocol):
    """Builds a method's teacher."""

    def __call__(
        self, num_epochs: int, *, groups: Groups, mesh: Mesh | None
    ) -> Teacher:
        """The teacher of a run of `num_epochs`. Groups are None unless the method uses
        them; the plan must not depend on them."""
        ...


class MakeStep(Protocol):
    """Builds a method's train step."""

    def __call__(
        self, workload: Workload, optimizer: optax.GradientTransformation, mesh: Mesh
    ) -> Step:
        """The step, which is compiled by the caller."""
        ...


def full_batch_step(
    workload: Workload, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Step:
    """Train on every row of the batch."""
    train_step = training.make_train_step(
        workload.loss_fn, optimizer, trainable=workload.trainable
    )

    def step(state, rng, batch, weights):
        state, info = train_step(state, rng, batch, weights)
        return state, StepInfo(info.loss, info.is_skipped, info.losses, weights > 0)

    return step


def in_batch_step(
    select_fn: SelectFn,
    ratio: float = 0.5,
    *,
    group_size: int = 4,
    reuse_forward: bool = False,
) -> MakeStep:
    """Train on a share of each batch, selected within groups of `group_size` rows.

    The groups, and so the results, are the same on any number of devices.
    """

    def make_step(
        workload: Workload, optimizer: optax.GradientTransformation, mesh: Mesh
    ) -> Step:
        num_groups = workload.batch_size // group_size
        if workload.batch_size % group_size or num_groups % mesh.size:
            raise OptionError(
                f"selection inside the batch takes groups of {group_size} rows, which "
                f"must divide over the devices, but batch_size is "
                f"{workload.batch_size} on {mesh.size} devices: change one of them, or "
                f"leave out in-batch with --methods."
            )
        train_step = training.make_selective_train_step(
            workload.loss_fn,
            optimizer,
            select_fn,
            num_selected=num_groups * max(1, int(group_size * ratio)),
            num_groups=num_groups,
            reuse_forward=reuse_forward,
            trainable=workload.trainable,
        )

        def step(state, rng, batch, weights):
            state, info = train_step(state, rng, batch, weights)
            is_taught = jnp.zeros(len(weights), bool).at[info.indices].set(True)
            losses = jnp.zeros(len(weights)).at[info.indices].set(info.losses)
            is_taught = is_taught & (weights > 0)
            return state, StepInfo(info.loss, info.is_skipped, losses, is_taught)

        return step

    return make_step


def step_on(loss_fn: LossFn) -> MakeStep:
    """Train every row on another loss than the workload's.

    Such as `training.token_selective_loss`, which chooses tokens inside sequences.
    """

    def make_step(
        workload: Workload, optimizer: optax.GradientTransformation, mesh: Mesh
    ) -> Step:
        return full_batch_step(workload._replace(loss_fn=loss_fn), optimizer, mesh)

    return make_step


class Method(NamedTuple):
    """A way to choose examples."""

    name: str
    role: Literal["reference", "control", "method"]
    """The reference trains to the full cost, the others to an equal, smaller cost. A
    method that wins is above all controls."""
    make_teacher: MakeTeacher
    scores: Literal["none", "table", "pass"] = "none"
    """Where the teacher's scores come from: nowhere, the losses of training, or scoring
    passes, which cost."""
    make_step: MakeStep = full_batch_step
    step_cost: Callable[[float], float] = lambda score_cost: 1.0
    """Cost of a step per row of its batch, in trained examples, given a score's."""
    min_epochs: int = 1
    """That its teacher's plan needs."""
    uses_groups: bool = False
    """Whether its teacher is made from the groups of each seed's examples."""

    def teacher(self, num_epochs: int, *, groups: Groups, mesh: Mesh | None) -> Teacher:
        """The teacher; the same one for all seeds, so that it compiles once."""
        if self.uses_groups:
            return self.make_teacher(num_epochs, groups=groups, mesh=mesh)
        return _teacher(self, num_epochs, mesh)


@functools.cache
def _teacher(method: Method, num_epochs: int, mesh: Mesh | None) -> Teacher:
    return method.make_teacher(num_epochs, groups=None, mesh=mesh)


def _full(num_epochs: int, *, groups: Groups, mesh: Mesh | None) -> Teacher:
    return teachers.full()


def _paper(make_select_fn: Callable[[Mesh | None], SelectFn]) -> MakeTeacher:
    """The paper's plan: rising ratio and interval, one warm-up epoch."""

    def make_teacher(num_epochs: int, *, groups: Groups, mesh: Mesh | None) -> Teacher:
        return teachers.attent(
            make_select_fn(mesh),
            ratio=schedules.linear(0.2, 0.8, num_epochs),
            interval=schedules.linear(1, 5, num_epochs),
        )

    return make_teacher


def _soft(mesh: Mesh | None) -> SelectFn:
    """The paper's Soft selection; the temperature is one standard deviation."""
    select_fn = selectors.gumbel_top_k(1.0, mesh=mesh)

    def select(rng, losses, num_selected, /):
        standardized, _ = scores.standardize().update(losses, ())
        return select_fn(rng, standardized, num_selected)

    return select


def _random_fresh(num_epochs: int, *, groups: Groups, mesh: Mesh | None) -> Teacher:
    return teachers.attent(
        selectors.uniform(mesh=mesh), ratio=0.3, num_warmup_epochs=0.5
    )


def _balanced(num_epochs: int, *, groups: Groups, mesh: Mesh | None) -> Teacher:
    """Draw by group each epoch, as many examples as the recommended teacher."""
    if groups is None:
        raise OptionError(
            "method balanced needs groups, and this workload's split has none: "
            "leave it out of --methods."
        )
    select_fn = selectors.balanced(groups, power=0.5)
    return teachers.attent(select_fn, ratio=0.3, num_warmup_epochs=0)


def _recommended(num_epochs: int, *, groups: Groups, mesh: Mesh | None) -> Teacher:
    return teachers.recommended(num_epochs, mesh=mesh)


STANDARD_METHODS = (
    Method("full", "reference", _full),
    Method("full-short", "control", _full),
    Method("random", "control", _paper(lambda mesh: selectors.uniform(mesh=mesh))),
    Method("random-fresh", "control", _random_fresh),
    Method("balanced", "control", _balanced, uses_groups=True),
    Method("attent-soft", "method", _paper(_soft), scores="pass"),
    Method(
        "attent-hard",
        "method",
        _paper(lambda mesh: selectors.top_k(mesh=mesh)),
        scores="pass",
    ),
    Method("recommended", "method", _recommended, scores="table", min_epochs=3),
    Method(
        "in-batch",
        "method",
        _full,
        make_step=in_batch_step(selectors.top_k(), 0.5),
        step_cost=lambda score_cost: score_cost + 0.5,
    ),
)
"""Every comparison's rows. "balanced" needs groups."""
