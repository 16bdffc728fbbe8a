"""One training run under a teacher, to an exact budget, with its costs counted."""

import dataclasses
import itertools
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Bool, Float, Int

from attent_jax import distributed
from attent_jax.data import ArrayPool, EpochBatch, epoch_batches
from attent_jax.scores import ScoreTable
from attent_jax.training import TrainState, score_pool
from attent_jax.typing import Params, ScoreFn, Teacher, TeacherState
from experiments.budgets import SCORE_COST, Method, fit_to_budget
from experiments.comparison import Row
from experiments.preemption import Safety
from experiments.timer import Timer

SYNC_EVERY = 25
"""Steps between checks of the device's results: are they finite, is a save due?"""


class Learner(NamedTuple):
    """The model's functions, compiled once for all methods and seeds."""

    init: Callable[[int, int], TrainState]
    """`(seed, num_steps) -> state`, the learning rate decaying over `num_steps`."""
    train_step: Callable
    """`(state, table, batch, ids, weights) -> (state, table, info)`"""
    score_fn: ScoreFn
    evaluate: Callable[[Params, ArrayPool, NamedSharding | None], dict[str, float]]
    """`(params, held_out, sharding) -> measures`, "quality" among them."""
    batch_size: int
    score_batch_size: int
    step_flops: float
    """FLOPs of a training step, as XLA counts them."""
    score_flops: float
    """FLOPs of scoring one example."""


class Epoch(NamedTuple):
    """What a run reports to its observer after each epoch."""

    epoch: int
    step: int
    """Steps taken so far."""
    num_steps: int
    """Steps of the whole run."""
    cost_examples: float
    """Examples trained on so far, plus a third per example scored."""
    num_selected: int
    loss: float
    """Mean training loss over the epoch's finite steps; NaN if there are none."""
    num_skipped: int
    """Steps so far whose loss or gradient was not finite."""
    order_crc32: int
    """Checksum of the ids taught in this epoch, in their order."""
    params_crc32: int
    """Checksum of the parameters after the epoch."""
    measures: dict[str, float]
    """Results of the evaluation after the epoch; empty if there was none."""


@dataclasses.dataclass
class _Progress:
    """The progress of a run: all that is needed to continue it."""

    train: TrainState
    teaching: TeacherState
    table: ScoreTable
    losses: Float[np.ndarray, "steps"]
    """Losses of this epoch's steps."""
    ids: Int[np.ndarray, "steps batch"]
    """Ids of this epoch's steps."""
    taught: Bool[np.ndarray, "epochs pool"]
    next_eval: float
    seconds: dict[str, float]
    clock: int = 0
    """Increases with every check."""
    step: int = 0
    epoch: int = 0
    epoch_step: int = 0
    is_selected: bool = False
    """Whether this epoch's selection has been made."""
    num_scored: int = 0
    num_skipped: int = 0
    log_size: int = 0
    measures: dict[str, float] = dataclasses.field(default_factory=dict)
    """Results of the last evaluation."""

    _ARRAYS = ("train", "teaching", "table", "losses", "ids", "taught")

    def arrays(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._ARRAYS}

    def position(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in self._ARRAYS}


class Observer:
    """Receives the events of a run; this base class ignores them."""

    def on_epoch(self, epoch: Epoch) -> None:
        """Called after each epoch."""

    def on_skip(self, step: int, ids: list[int]) -> None:
        """Called after a skipped step; `ids` had losses that were not finite."""

    def on_restore(self, step: int, num_steps: int) -> None:
        """Called when the run continues from a checkpoint."""

    def size(self) -> int:
        """The length of the record so far."""
        return 0

    def cut(self, size: int) -> None:
        """Remove the record beyond `size`: the run will report it again."""


def teach(
    method: Method,
    learner: Learner,
    pool: ArrayPool,
    held_out: ArrayPool,
    *,
    seed: int,
    budget: float,
    eval_every: float,
    observer: Observer,
    mesh: Mesh | None = None,
    make_safety: Callable[[Any, dict[str, Any]], Safety] | None = None,
) -> tuple[Row, Bool[np.ndarray, "epochs pool"]]:
    """Train once. Return the row, and which examples each epoch taught.

    Args:
      method: how examples are chosen.
      learner: the model's functions.
      pool: the examples to learn from.
      held_out: the examples to evaluate on.
      seed: determines parameters, order and selection.
      budget: the run's cost, in examples trained (a score counts a third).
      eval_every: cost between evaluations, in examples. Evaluations are made at the
        ends of epochs.
      observer: receives the run's events.
      mesh: the devices that batches are split over; the state is replicated. None:
        one device.
      make_safety: `(target, identity) -> safety`; continues the run from its
        checkpoint, and saves it. None: the run starts at step 0 and is not saved.
    """
    teacher, steps_per_epoch = fit_to_budget(
        method, num_examples=len(pool), batch_size=learner.batch_size, budget=budget
    )
    training = _Training(
        method,
        learner,
        pool,
        held_out,
        seed,
        eval_every,
        mesh,
        teacher,
        steps_per_epoch,
        observer,
    )
    progress = training.start()
    if make_safety is None:
        return training.run(progress, lambda progress: None)
    safety = make_safety(progress.arrays(), training.identity())
    try:
        if (checkpoint := safety.restore()) is not None:
            progress = _Progress(**checkpoint.state, **checkpoint.position)
            observer.on_restore(progress.step, sum(steps_per_epoch))
        observer.cut(progress.log_size)
        return training.run(
            progress,
            lambda progress: safety.look(
                progress.clock, progress.arrays(), progress.position()
            ),
        )
    finally:
        safety.close()


class _Training(NamedTuple):
    """The training loop with its constants."""

    method: Method
    learner: Learner
    pool: ArrayPool
    held_out: ArrayPool
    seed: int
    eval_every: float
    mesh: Mesh | None
    teacher: Teacher
    steps_per_epoch: list[int]
    observer: Observer

    @property
    def sharding(self) -> NamedSharding | None:
        """The sharding of a batch."""
        return None if self.mesh is None else distributed.batch_sharding(self.mesh)

    def identity(self) -> dict[str, Any]:
        """What identifies this run's checkpoints."""
        return {
            "method": self.method.name,
            "seed": self.seed,
            "plan": self.steps_per_epoch,
            "batch_size": self.learner.batch_size,
            "pool": {
                "num_examples": len(self.pool),
                "crc32": crc32(self.pool.take(np.arange(len(self.pool)))),
            },
        }

    def start(self) -> _Progress:
        num_examples, num_epochs = len(self.pool), len(self.steps_per_epoch)
        train = self.learner.init(self.seed, sum(self.steps_per_epoch))
        teaching = self.teacher.init(num_examples)
        table = ScoreTable.init(num_examples)
        if self.mesh is not None:
            train, teaching, table = distributed.put(
                (train, teaching, table), distributed.replicated(self.mesh)
            )
        return _Progress(
            train,
            teaching,
            table,
            losses=np.zeros(max(self.steps_per_epoch), np.float32),
            ids=np.zeros(
                (max(self.steps_per_epoch), self.learner.batch_size), np.int32
            ),
            taught=np.zeros((num_epochs, num_examples), bool),
            next_eval=self.eval_every,
            seconds={},
        )

    def run(
        self, progress: _Progress, look: Callable[[_Progress], None]
    ) -> tuple[Row, Bool[np.ndarray, "epochs pool"]]:
        timer = Timer()
        timer.seconds.update(progress.seconds)

        def look_up() -> None:
            progress.clock += 1
            progress.log_size = self.observer.size()
            progress.seconds = dict(timer.seconds)
            with timer.phase("save"):
                look(progress)

        while progress.epoch < len(self.steps_per_epoch):
            if not progress.is_selected:
                self._select(progress, timer)
            with timer.phase("select"):
                batches = self._batches(progress)
            num_steps = self.steps_per_epoch[progress.epoch]
            while progress.epoch_step < num_steps:
                self._take_steps(progress, batches, num_steps, timer)
                if progress.epoch_step < num_steps:
                    look_up()
            self._end_epoch(progress, timer)
            look_up()
        return self._row(progress, timer), progress.taught

    def _select(self, progress: _Progress, timer: Timer) -> None:
        with timer.phase("select") as wait:
            scores = wait(progress.table.scores)
        if self.method.scores_by_pass and self.teacher.needs_scores(progress.teaching):
            with timer.phase("score") as wait:
                scores = wait(
                    score_pool(
                        self.learner.score_fn,
                        progress.train.params,
                        self.pool,
                        batch_size=self.learner.score_batch_size,
                        sharding=self.sharding,
                    )
                )
            progress.num_scored += len(self.pool)
        with timer.phase("select") as wait:
            rng = jax.random.fold_in(jax.random.key(self.seed), progress.epoch)
            progress.teaching, _ = wait(
                self.teacher.update(rng, progress.teaching, scores)
            )
        progress.is_selected = True

    def _batches(self, progress: _Progress) -> Iterator[EpochBatch]:
        """What is left of the epoch."""
        return epoch_batches(
            self.pool,
            progress.teaching.selection,
            self.learner.batch_size,
            (self.seed, progress.epoch),
            sharding=self.sharding,
            start=progress.epoch_step,
        )

    def _take_steps(
        self,
        progress: _Progress,
        batches: Iterator[EpochBatch],
        end: int,
        timer: Timer,
    ) -> None:
        """Take up to `SYNC_EVERY` steps, then read their losses."""
        first = progress.epoch_step
        steps = range(first, min(first + SYNC_EVERY, end))
        infos, all_weights = [], []
        with timer.phase("train") as wait:
            for step, (ids, batch, weights) in zip(
                steps, itertools.islice(batches, len(steps)), strict=True
            ):
                progress.train, progress.table, info = self.learner.train_step(
                    progress.train, progress.table, batch, ids, weights
                )
                progress.ids[step] = ids
                infos.append(info)
                all_weights.append(weights)
            wait(progress.train)
        fetched = jax.device_get([(info.loss, info.is_skipped) for info in infos])
        for step, info, weights, (loss, is_skipped) in zip(
            steps, infos, all_weights, fetched, strict=True
        ):
            progress.losses[step] = loss
            if is_skipped:
                progress.num_skipped += 1
                losses, weights = multihost_utils.process_allgather(
                    (info.losses, weights), tiled=True
                )
                is_bad = ~np.isfinite(losses) & (weights > 0)
                self.observer.on_skip(
                    progress.step + step - first, progress.ids[step][is_bad].tolist()
                )
        progress.epoch_step = steps.stop
        progress.step += len(steps)

    def _end_epoch(self, progress: _Progress, timer: Timer) -> None:
        epoch_steps = self.steps_per_epoch[progress.epoch]
        taught, losses = progress.ids[:epoch_steps], progress.losses[:epoch_steps]
        finite = losses[np.isfinite(losses)]
        progress.taught[progress.epoch, taught] = True
        cost = self._cost(progress)
        is_evaluated = cost >= progress.next_eval or progress.step == sum(
            self.steps_per_epoch
        )
        if is_evaluated:
            progress.next_eval = cost + self.eval_every
            with timer.phase("eval"):
                progress.measures = self.learner.evaluate(
                    progress.train.params, self.held_out, self.sharding
                )
        self.observer.on_epoch(
            Epoch(
                epoch=progress.epoch,
                step=progress.step,
                num_steps=sum(self.steps_per_epoch),
                cost_examples=cost,
                num_selected=int(progress.teaching.selection.num_selected),
                loss=float(np.mean(finite)) if finite.size else float("nan"),
                num_skipped=progress.num_skipped,
                order_crc32=crc32(taught),
                params_crc32=crc32(progress.train.params),
                measures=progress.measures if is_evaluated else {},
            )
        )
        progress.epoch += 1
        progress.epoch_step, progress.is_selected = 0, False

    def _cost(self, progress: _Progress) -> float:
        trained = progress.step * self.learner.batch_size
        return trained + progress.num_scored * SCORE_COST

    def _row(self, progress: _Progress, timer: Timer) -> Row:
        seconds, measures = timer.seconds, progress.measures
        return Row(
            method=self.method.name,
            seed=self.seed,
            quality=measures["quality"],
            wall_train_s=seconds["train"],
            wall_score_s=seconds["score"],
            wall_select_s=seconds["select"],
            wall_eval_s=seconds["eval"],
            wall_save_s=seconds["save"],
            compile_s=seconds["compile"],
            cost_examples=self._cost(progress),
            flops=progress.step * self.learner.step_flops
            + progress.num_scored * self.learner.score_flops,
            details={name: v for name, v in measures.items() if name != "quality"},
        )


def crc32(tree: Any) -> int:
    """Checksum of the bytes of a pytree's arrays."""
    checksum = 0
    for leaf in jax.tree.leaves(tree):
        checksum = zlib.crc32(np.asarray(leaf).tobytes(), checksum)
    return checksum
