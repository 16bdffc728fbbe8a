"""Train one method from one seed: the only training loop of the experiments."""

import dataclasses
import itertools
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from attent_jax import distributed
from attent_jax.checkpointing import Checkpoint, checksum
from attent_jax.data import EpochBatch, epoch_batches
from attent_jax.scores import ScoreTable
from attent_jax.training import TrainState, score_pool
from attent_jax.typing import Teacher, TeacherState
from experiments.study.budget import Budgeted, fit_to_budget
from experiments.study.compiled import Compiled, Outcome, compile_for, count_flops
from experiments.study.hooks import Epoch, Evaluation, Hook, Steps
from experiments.study.methods import Method
from experiments.study.paired_statistics import Result
from experiments.study.timer import Timer
from experiments.study.workload import Split, Workload

CHUNK_SIZE = 25
"""Steps whose results are read together, while the device works on the next ones."""
NUM_IN_FLIGHT = 3
"""Steps that wait for the device, at most; each holds a batch in its memory."""


class RunSpec(NamedTuple):
    """What is run."""

    workload: Workload
    method: Method
    seed: int
    """Determines data, parameters, order, selection and randomness."""
    budget: float
    """The run's cost, in trained examples."""
    num_evaluations: int = 6
    """Evenly over the steps, the last one at the end."""

    def plan(self) -> Budgeted:
        """The method's plan, cut to the budget."""
        return fit_to_budget(
            self.method,
            num_examples=self.workload.num_examples,
            batch_size=self.workload.batch_size,
            budget=self.budget,
            score_cost=self.workload.score_cost,
        )

    def evaluation_steps(self, plan: Budgeted) -> list[int]:
        """The steps after which the run is evaluated."""
        shares = np.arange(1, self.num_evaluations + 1) / self.num_evaluations
        ends = np.ceil(shares * sum(plan.steps_per_epoch)).astype(int)
        return np.unique(ends).tolist()


def stream(seed: int, name: str) -> jax.Array:
    """The key of one consumer of randomness; a new one changes no other's numbers."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def train(run: RunSpec, *, mesh: Mesh, hooks: Sequence[Hook] = ()) -> Result:
    """Train once, or continue where a hook has saved the run.

    Nothing is read from the devices between two steps except results of earlier ones,
    so that they always have work. Between epochs the host waits once, for the selection
    that the next epoch's order is made of.

    Args:
      run: what is run.
      mesh: the devices; batches are split over them, the train state lies as the
        workload says.
      hooks: what happens besides, in this order.
    """
    if len({hook.name for hook in hooks}) < len(hooks):
        raise ValueError(
            f"hooks have the same name: {', '.join(hook.name for hook in hooks)}: give "
            f"one of them another name."
        )
    split = run.workload.load(run.seed)
    if len(split.train) != run.workload.num_examples:
        raise ValueError(
            f"{run.workload.name}: the training pool has {len(split.train)} examples, "
            f"not num_examples={run.workload.num_examples}: correct the workload."
        )
    plan = run.plan()
    training = _Training(
        run,
        split,
        plan,
        run.method.teacher(plan.num_epochs, groups=split.groups, mesh=mesh),
        compile_for(run.workload, run.method.make_step, mesh),
        mesh,
        tuple(hooks),
        Timer(),
        deque(),
        run.evaluation_steps(plan),
    )
    try:
        progress = training.start()
        training.train(progress)
        training.evaluate_finally(progress)
        return training.result(progress)
    finally:
        for hook in hooks:
            hook.close()


@dataclasses.dataclass
class _Progress:
    """The progress of a run: all that is needed to continue it."""

    state: TrainState
    teaching: TeacherState
    table: ScoreTable
    losses: Float[np.ndarray, "steps"]
    """Losses of this epoch's steps."""
    clock: int = 0
    """Increases with every chance to save."""
    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    is_selected: bool = False
    """Whether this epoch's selection has been made."""
    order_crc32: int = 0
    """Of the ids that this epoch has seen so far."""
    num_scored: int = 0
    num_taught: int = 0
    num_skipped: int = 0
    measures: dict[str, float] = dataclasses.field(default_factory=dict)
    """Results of the last evaluation."""

    _ARRAYS = ("state", "teaching", "table", "losses")

    def arrays(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._ARRAYS}

    def position(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in self._ARRAYS}


class _Chunk(NamedTuple):
    """Steps that were dispatched and not yet read."""

    first: int
    """Its first step's number in the run."""
    epoch_step: int
    """Its first step's number in the epoch."""
    ids: list[Int[np.ndarray, "batch"]]
    outcomes: list[Outcome]


class _Training(NamedTuple):
    """The loop with its constants."""

    run: RunSpec
    split: Split
    plan: Budgeted
    teacher: Teacher
    functions: Compiled
    mesh: Mesh
    hooks: tuple[Hook, ...]
    timer: Timer
    in_flight: deque[jax.Array]
    """A result of each step that the devices may not have taken yet."""
    evaluation_steps: Sequence[int]

    @property
    def num_steps(self) -> int:
        return sum(self.plan.steps_per_epoch)

    @property
    def learning_rate(self) -> float:
        return self.run.workload.learning_rate_of(self.run.method.name)

    def identity(self) -> dict[str, Any]:
        """What identifies this run's checkpoints."""
        return {
            "workload": self.run.workload.name,
            "method": self.run.method.name,
            "seed": self.run.seed,
            "plan": self.plan._asdict(),
            "batch_size": self.run.workload.batch_size,
            "learning_rate": self.learning_rate,
            "data": self.split.fingerprint,
        }

    def start(self) -> _Progress:
        """The run's beginning, or where it was saved."""
        num_examples = len(self.split.train)
        with self.timer.phase("start"):
            state = self.functions.init(
                jax.random.key(self.run.seed), float(self.num_steps), self.learning_rate
            )
            teaching, table = distributed.put(
                (self.teacher.init(num_examples), ScoreTable.init(num_examples)),
                distributed.replicated(self.mesh),
            )
        losses = np.zeros(max(self.plan.steps_per_epoch), np.float32)
        progress = _Progress(state, teaching, table, losses)
        positions = {}
        if (saved := self._resume("training", progress.arrays())) is not None:
            position = dict(saved.position)
            for phase, spent in position.pop("seconds").items():
                self.timer.seconds[phase] += spent
            positions = position.pop("hooks")
            progress = _Progress(**saved.state, **position)
        for hook in self.hooks:
            hook.restore(positions.get(hook.name))
            hook.on_start(progress.step, self.num_steps)
        return progress

    def _resume(self, part: str, target: Any) -> Checkpoint | None:
        """Where a part of the run was saved, by the first hook that knows."""
        found = [hook.resume(part, target, self.identity()) for hook in self.hooks]
        return next((checkpoint for checkpoint in found if checkpoint), None)

    def train(self, progress: _Progress) -> None:
        """All epochs that are left."""
        while progress.epoch < len(self.plan.steps_per_epoch):
            if not progress.is_selected:
                self._select(progress)
            with self.timer.phase("select"):
                batches = self._batches(progress)
            end, unread = self.plan.steps_per_epoch[progress.epoch], None
            while progress.epoch_step < end:
                with self.timer.phase("train"):
                    chunk = self._dispatch(progress, batches, end)
                    self._read(progress, unread)
                is_due = progress.step in self.evaluation_steps
                is_end = progress.epoch_step == end
                unread = self._wait(progress, chunk) if is_due or is_end else chunk
                if is_due:
                    self._evaluate(progress)
                if not is_end:
                    unread = self._save_if_wanted(progress, unread)
            self._end_epoch(progress)
            self._save_if_wanted(progress, None)

    def _select(self, progress: _Progress) -> None:
        method, workload = self.run.method, self.run.workload
        scores = progress.table.scores
        if method.scores == "pass" and self.teacher.needs_scores(progress.teaching):
            with self.timer.phase("score") as wait:
                scores = wait(
                    score_pool(
                        self.functions.score_fn,
                        progress.state.params,
                        self.split.train,
                        batch_size=workload.score_batch_size,
                        rng=jax.random.fold_in(
                            stream(self.run.seed, "scores"), progress.epoch
                        ),
                        sharding=distributed.batch_sharding(self.mesh),
                    )
                )
            progress.num_scored += len(self.split.train)
        with self.timer.phase("select") as wait:
            # Not a stream of its own name: selections are older than the streams.
            rng = jax.random.fold_in(jax.random.key(self.run.seed), progress.epoch)
            progress.teaching, _ = wait(
                self.teacher.update(rng, progress.teaching, scores)
            )
        progress.is_selected = True

    def _batches(self, progress: _Progress) -> Iterator[EpochBatch]:
        """What is left of the epoch."""
        return epoch_batches(
            self.split.train,
            progress.teaching.selection,
            self.run.workload.batch_size,
            (self.run.seed, progress.epoch),
            sharding=distributed.batch_sharding(self.mesh),
            start=progress.epoch_step,
        )

    def _dispatch(
        self, progress: _Progress, batches: Iterator[EpochBatch], end: int
    ) -> _Chunk:
        """Hand a chunk of steps to the devices, at most up to the next evaluation."""
        first, epoch_step = progress.step, progress.epoch_step
        next_evaluation = next(s for s in self.evaluation_steps if s > first)
        size = min(CHUNK_SIZE, end - epoch_step, next_evaluation - first)
        rng, ids_of_steps, outcomes = stream(self.run.seed, "loss"), [], []
        for ids, batch, weights in itertools.islice(batches, size):
            if len(self.in_flight) >= NUM_IN_FLIGHT:
                self.in_flight.popleft().block_until_ready()
            progress.state, progress.table, outcome = self.functions.step(
                progress.state, progress.table, rng, batch, ids, weights
            )
            self.in_flight.append(outcome.loss)
            ids_of_steps.append(ids)
            outcomes.append(outcome)
            progress.order_crc32 = zlib.crc32(ids.tobytes(), progress.order_crc32)
        assert len(outcomes) == size, "the plan has more steps than there are batches"
        for array in jax.tree.leaves(outcomes):
            array.copy_to_host_async()
        progress.step += size
        progress.epoch_step += size
        return _Chunk(first, epoch_step, ids_of_steps, outcomes)

    def _read(self, progress: _Progress, chunk: _Chunk | None) -> None:
        """Read what the steps of a chunk left, and tell the hooks."""
        if chunk is None:
            return
        outcomes = jax.device_get(chunk.outcomes)
        losses = np.array([outcome.loss for outcome in outcomes], np.float32)
        progress.losses[chunk.epoch_step : chunk.epoch_step + len(losses)] = losses
        progress.num_skipped += sum(int(outcome.is_skipped) for outcome in outcomes)
        progress.num_taught += sum(int(outcome.is_taught.sum()) for outcome in outcomes)
        steps = Steps(
            chunk.first,
            np.stack(chunk.ids),
            losses,
            np.array([outcome.is_skipped for outcome in outcomes]),
            np.stack([outcome.is_bad for outcome in outcomes]),
            np.stack([outcome.is_taught for outcome in outcomes]),
        )
        for hook in self.hooks:
            hook.on_steps(steps)

    def _wait(self, progress: _Progress, unread: _Chunk | None) -> None:
        """Let the devices finish, and read everything."""
        with self.timer.phase("train") as wait:
            self._read(progress, unread)
            wait(progress.state)

    def _evaluate(self, progress: _Progress) -> None:
        workload = self.run.workload
        with self.timer.phase("evaluate"):
            measures = workload.evaluate(
                progress.state.params,
                self.split.held_out,
                distributed.batch_sharding(self.mesh),
            )
        objective, is_last = workload.objective.measure, not workload.final_evaluate
        if measures and objective not in measures and is_last:
            raise ValueError(
                f"{workload.name}: the objective is {objective!r}, but evaluate "
                f"returns {', '.join(measures)}: let it return the objective, too."
            )
        progress.measures = {name: float(found) for name, found in measures.items()}
        evaluation = Evaluation(progress.step, self._cost(progress), progress.measures)
        for hook in self.hooks:
            hook.on_evaluation(evaluation)
        if workload.snapshot is not None:
            with self.timer.phase("evaluate"):
                kept = workload.snapshot(
                    self.run.method.name, progress.state, self.split
                )
            for hook in self.hooks:
                hook.on_snapshot(progress.step, kept)

    def _end_epoch(self, progress: _Progress) -> None:
        num_steps = self.plan.steps_per_epoch[progress.epoch]
        losses = progress.losses[:num_steps]
        finite = losses[np.isfinite(losses)]
        epoch = Epoch(
            epoch=progress.epoch,
            step=progress.step,
            num_steps=self.num_steps,
            cost=self._cost(progress),
            num_selected=int(progress.teaching.selection.num_selected),
            num_taught=progress.num_taught,
            loss=float(np.mean(finite)) if finite.size else float("nan"),
            num_skipped=progress.num_skipped,
            order_crc32=progress.order_crc32,
            params_crc32=checksum(progress.state.params),
        )
        for hook in self.hooks:
            hook.on_epoch(epoch)
        progress.epoch += 1
        progress.epoch_step, progress.is_selected, progress.order_crc32 = 0, False, 0

    def _save_if_wanted(
        self, progress: _Progress, unread: _Chunk | None
    ) -> _Chunk | None:
        """Returns what is still not read."""
        progress.clock += 1
        savers = [hook for hook in self.hooks if hook.wants_state(progress.num_skipped)]
        if not savers:
            return unread
        self._wait(progress, unread)
        self._save(progress, savers)
        return None

    def _save(self, progress: _Progress, savers: Sequence[Hook]) -> None:
        with self.timer.phase("save"):
            position = progress.position() | {
                "seconds": dict(self.timer.seconds),
                "hooks": {hook.name: hook.position() for hook in self.hooks},
            }
            for hook in savers:
                hook.on_state("training", progress.clock, progress.arrays(), position)

    def evaluate_finally(self, progress: _Progress) -> None:
        """The workload's final evaluation, in steps that are saved like training's."""
        final = self.run.workload.final_evaluate
        if final is None:
            return
        params, split = progress.state.params, self.split
        progress.clock += 1
        self._save(progress, self.hooks)
        with self.timer.phase("evaluate"):
            rng = stream(self.run.seed, "final evaluation")
            state = final.init(rng, params, split, self.mesh)
            num_steps, first = final.num_steps(split), 0
        if (saved := self._resume("final evaluation", state)) is not None:
            state, first = saved.state, saved.step
            self.timer.seconds.update(saved.position["seconds"])
        for number in range(first, num_steps):
            with self.timer.phase("evaluate") as wait:
                own = jax.random.fold_in(rng, number)
                state = wait(final.step(own, state, params, split, number))
            for hook in self.hooks:
                hook.on_final_step(number + 1, num_steps)
            position = {"seconds": dict(self.timer.seconds)}
            for hook in self.hooks:
                if hook.wants_state(progress.num_skipped):
                    hook.on_state("final evaluation", number + 1, state, position)
        with self.timer.phase("evaluate"):
            progress.measures = progress.measures | final.result(state, split)
        evaluation = Evaluation(progress.step, self._cost(progress), progress.measures)
        for hook in self.hooks:
            hook.on_evaluation(evaluation)

    def _cost(self, progress: _Progress) -> float:
        scored = progress.num_scored * self.plan.score_cost
        return progress.step * self.plan.step_cost + scored

    def result(self, progress: _Progress) -> Result:
        """The finished run's."""
        workload, method = self.run.workload, self.run.method
        flops = count_flops(workload, method.make_step)
        return Result(
            method=method.name,
            role=method.role,
            seed=self.run.seed,
            measures=progress.measures,
            cost=self._cost(progress),
            flops=progress.step * flops.step + progress.num_scored * flops.score,
            seconds=dict(self.timer.seconds),
            num_steps=progress.step,
            num_skipped=progress.num_skipped,
            learning_rate=self.learning_rate,
        )
