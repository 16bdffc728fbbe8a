"""Which coordinates are taught until the next refresh: the rules that are compared.

At a refresh a rule scores all coordinates of the signal. Until the next one it draws a
share of them by these scores, and the learner iterates on what was drawn. A loop step
is several refreshes in one compiled scan. Full training takes as many iterations on all
coordinates.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from attent_jax import distributed, scores, selectors, teachers, training
from attent_jax.selectors import NintScores
from attent_jax.training import TrainState
from attent_jax.typing import Batch, Params, SelectFn, Selection, Teacher
from experiments.study.methods import Groups, Method, Step, StepInfo
from experiments.study.workload import Workload

ITERATIONS = 50
"""Iterations of one loop step, for every rule."""
SHARE = 0.2
"""Of the coordinates that an iteration trains on (arXiv 2511.15487, section 4)."""
CHUNK_SIZE = 2**18
"""Coordinates whose activations are in memory together."""
_NTK_COST = 5.0
"""FLOPs of the NTK score over those of a forward pass: forward, transposed product and
tangent product. An error score costs a forward pass."""
_MULTIPLE = 64
"""Of which the number of selected coordinates is one, so that devices share them."""

ScoreAll = Callable[[Params, Batch], Any]
"""`(params, batch) -> scores` of every coordinate, in the form that the rule needs."""
Choose = Callable[[jax.Array, Any, int, Any], Selection]
"""`(rng, scores, num_selected, refresh) -> Selection`"""


class Rule(NamedTuple):
    """Scores and draws coordinates."""

    make_choose: Callable[[Mesh | None], Choose]
    make_score: Callable[[Workload], ScoreAll]
    score_cost: float = 1.0
    """Of a refresh, in forward passes over the signal."""
    interval: int = 10
    """Iterations between two refreshes; it divides `ITERATIONS`."""
    period: int = 1
    """Iterations on one draw; it divides `interval`."""
    share: float = SHARE

    def count(self, num_points: int) -> int:
        """Coordinates that an iteration trains on."""
        num = max(1, int(self.share * num_points))
        return num - num % _MULTIPLE if num > _MULTIPLE else num

    def step_cost(self, score_cost: float) -> float:
        """Of a loop step per coordinate of the signal, in trained examples."""
        num_refreshes = ITERATIONS // self.interval
        return ITERATIONS * self.share + num_refreshes * self.score_cost * score_cost

    def make_step(
        self, workload: Workload, optimizer: optax.GradientTransformation, mesh: Mesh
    ) -> Step:
        """The loop step: refreshes, draws, iterations."""
        iterate = _make_iterate(workload, optimizer)
        score, choose = self.make_score(workload), self.make_choose(mesh)
        split = distributed.batch_sharding(mesh)
        num_selected = self.count(workload.batch_size)

        def step(state: TrainState, rng, batch, weights):
            def refresh(carry, _):
                known = score(carry[0].params, batch)

                def draw(carry, _):
                    state, is_taught = carry
                    own = jax.random.fold_in(rng, state.step)
                    number = state.step // self.interval
                    selection = choose(own, known, num_selected, number)
                    ids = selection.indices[:num_selected]
                    rows = lax.with_sharding_constraint(
                        jax.tree.map(lambda leaf: leaf[ids], batch), split
                    )
                    state, *info = iterate(state, rng, rows, self.period)
                    return (state, is_taught.at[ids].set(True)), info

                return lax.scan(draw, carry, length=self.interval // self.period)

            start = (state, jnp.zeros(len(weights), bool))
            (state, is_taught), (losses, is_skipped) = lax.scan(
                refresh, start, length=ITERATIONS // self.interval
            )
            unread = jnp.zeros(len(weights))
            last = losses[-1, -1]
            return state, StepInfo(last, is_skipped.any(), unread, is_taught)

        return step

    def choice(self, workload: Workload) -> Callable[[TrainState, Batch], dict]:
        """`(state, signal) -> arrays [points]`: what is chosen now, and the scores."""
        score, choose = self.make_score(workload), self.make_choose(None)
        num_selected = self.count(workload.num_examples)

        @jax.jit
        def choice(state, signal):
            known = score(state.params, signal)
            number = state.step // self.interval
            own = jax.random.fold_in(jax.random.key(0), state.step)
            selection = choose(own, known, num_selected, number)
            ids = selection.indices[:num_selected]
            chosen = jnp.zeros(workload.num_examples, bool).at[ids].set(True)
            scores = known._asdict() if isinstance(known, NintScores) else {}
            return {"chosen": chosen} | scores

        return lambda state, signal: jax.device_get(choice(state, signal))


def full_step(
    workload: Workload, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Step:
    """Iterations on all coordinates."""
    iterate = _make_iterate(workload, optimizer)

    def step(state, rng, batch, weights):
        state, loss, is_skipped = iterate(state, rng, batch, ITERATIONS)
        return state, StepInfo(
            loss, is_skipped, jnp.zeros(len(weights)), jnp.ones(len(weights), bool)
        )

    return step


def _make_iterate(
    workload: Workload, optimizer: optax.GradientTransformation
) -> Callable[..., tuple[TrainState, Float[Array, ""], Bool[Array, ""]]]:
    """`(state, rng, rows, num_iterations) -> (state, last loss, whether skipped)`."""

    def iterate(state, rng, rows, num_iterations):
        num_rows = len(jax.tree.leaves(rows)[0])
        train_step = training.make_train_step(
            workload.loss_fn, optimizer, num_microbatches=_num_parts(num_rows)
        )

        def iteration(state, _):
            state, info = train_step(state, rng, rows, jnp.ones(num_rows))
            return state, (info.loss, info.is_skipped)

        state, (losses, is_skipped) = lax.scan(iteration, state, length=num_iterations)
        return state, losses[-1], is_skipped.any()

    return iterate


def _num_parts(num_rows: int) -> int:
    """The fewest equal parts of at most `CHUNK_SIZE` rows."""
    least = -(-num_rows // CHUNK_SIZE)
    return next(n for n in range(least, num_rows + 1) if num_rows % n == 0)


def no_scores(workload: Workload) -> ScoreAll:
    """Zeros, for rules that need none."""
    return lambda params, batch: jnp.zeros(len(batch["coordinates"]))


def errors(workload: Workload) -> ScoreAll:
    """The squared error of every coordinate."""

    def score(params, batch):
        num_rows = len(batch["coordinates"])
        num_parts = _num_parts(num_rows)
        # Every device of a mesh has its share of each part.
        parts = jax.tree.map(
            lambda leaf: leaf.reshape(-1, num_parts, leaf.shape[-1]).swapaxes(0, 1),
            batch,
        )
        found = lax.map(lambda part: workload.loss_fn(params, None, part), parts)
        return found.T.reshape(num_rows)

    return score


def nint_scores(workload: Workload) -> ScoreAll:
    """The NTK score of every coordinate, and its squared error."""
    assert workload.outputs_fn is not None
    assert workload.output_loss_fn is not None
    ntk = scores.ntk_guided(
        workload.outputs_fn, workload.output_loss_fn, chunk_size=CHUNK_SIZE
    )
    error = errors(workload)

    def score(params, batch):
        return NintScores(ntk(params, None, batch), error(params, batch))

    return score


def _by_score(make_select_fn: Callable[[Mesh | None], SelectFn]):
    """A selector, which does not depend on the number of the refresh."""

    def make_choose(mesh: Mesh | None) -> Choose:
        select_fn = make_select_fn(mesh)
        return lambda rng, known, num_selected, _: select_fn(rng, known, num_selected)

    return make_choose


def _mix(share: float) -> Callable[[Mesh | None], SelectFn]:
    """A random share, and the rest by error."""
    return lambda mesh: selectors.mix_uniform(
        selectors.top_k(mesh=mesh), share, mesh=mesh
    )


def _soft(mesh: Mesh | None) -> SelectFn:
    """A weighted draw; the temperature is one standard deviation of the errors."""
    select_fn = selectors.gumbel_top_k(1.0, mesh=mesh)

    def select(rng, errors, num_selected, /):
        standardized, _ = scores.standardize().update(errors, ())
        return select_fn(rng, standardized, num_selected)

    return select


_random = _by_score(lambda mesh: selectors.uniform(mesh=mesh))
CONTROLS = {
    "random": Rule(_random, no_scores, 0, period=10),
    "random-fresh": Rule(_random, no_scores, 0),
}
RULES = {
    "int": Rule(_by_score(lambda mesh: selectors.top_k(mesh=mesh)), errors, period=10),
    "attent-soft": Rule(_by_score(_soft), errors),
    "evos-like": Rule(_by_score(_mix(0.5)), errors, interval=50),
    "error-mix": Rule(_by_score(_mix(0.7)), errors),
    "nint": Rule(lambda mesh: selectors.nint(mesh=mesh), nint_scores, _NTK_COST),
}
"""INT is error-based (arXiv 2405.10531) and AtteNT's Hard; "attent-soft" its Soft.
"evos-like" scores rarely and mutates half of its choice, after arXiv 2412.10153.
"error-mix" is NINT without its NTK share, which shows what that share adds."""


def make_methods(share: float = SHARE) -> tuple[Method, ...]:
    """All rows, for rules that choose this share of the coordinates."""
    whole = functools.partial(
        Method,
        make_teacher=_everything,
        make_step=full_step,
        step_cost=lambda score_cost: float(ITERATIONS),
    )
    return (
        whole("full", "reference"),
        whole("full-short", "control"),
        *(_method(name, "control", CONTROLS[name], share) for name in CONTROLS),
        *(_method(name, "method", RULES[name], share) for name in RULES),
    )


def _method(
    name: str, role: Literal["control", "method"], rule: Rule, share: float
) -> Method:
    rule = rule._replace(share=share)
    return Method(
        name, role, _everything, make_step=rule.make_step, step_cost=rule.step_cost
    )


def _everything(num_epochs: int, *, groups: Groups, mesh: Mesh | None) -> Teacher:
    """The signal is one batch, and a step chooses inside it."""
    return teachers.full()
