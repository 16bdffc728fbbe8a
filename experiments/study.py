"""Run methods × seeds interleaved, with a progress bar, and report."""

import dataclasses
import io
import json
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from attent_jax import distributed
from attent_jax.checkpointing import CheckpointError
from attent_jax.data import ArrayPool
from experiments import plots
from experiments.budgets import Method
from experiments.comparison import Row
from experiments.loop import Epoch, Learner, Observer, teach
from experiments.preemption import (
    Interruption,
    Preempted,
    Safety,
    TooManySkipped,
    discard,
)
from experiments.report import to_json, to_markdown
from experiments.workdir import Run, agree, any_process, environment


class Task(NamedTuple):
    """What is trained for one seed."""

    pool: ArrayPool
    held_out: ArrayPool
    labels: Int[np.ndarray, "pool"]
    methods: Sequence[Method]


class ProgressReporter(Observer):
    """Writes a run's metrics and updates the progress bar."""

    def __init__(
        self,
        run: Run,
        log_size: int,
        method: Method,
        seed: int,
        progress: Progress,
        task: TaskID,
    ):
        self._run, self._log_size = run, log_size
        self._progress, self._task = progress, task
        self._about = {"method": method.name, "seed": seed}
        self._completed = progress.tasks[task].completed
        self._start, self._spent = time.perf_counter(), 0.0

    def on_epoch(self, epoch: Epoch) -> None:
        fields = {name: v for name, v in epoch._asdict().items() if name != "measures"}
        self._run.log(**self._about, **fields, **epoch.measures)
        now = time.perf_counter()
        rate = (epoch.cost_examples - self._spent) / (now - self._start)
        self._start, self._spent = now, epoch.cost_examples
        self._progress.update(
            self._task,
            completed=self._completed + epoch.cost_examples,
            description=f"seed {self._about['seed']} {self._about['method']:<12} "
            f"{rate:7,.0f} examples/s",
        )

    def on_skip(self, step: int, ids: list[int]) -> None:
        self._run.log(**self._about, skipped_step=step, ids=ids)
        self._progress.console.print(
            f"{self._about['method']}: step {step} skipped, its loss or gradient is "
            f"not finite; ids of such losses: {ids}"
        )

    def on_restore(self, step: int, num_steps: int) -> None:
        self._progress.console.print(
            f"{self._about['method']}: continuing after step {step} of {num_steps}"
        )

    def size(self) -> int:
        return self._run.log_size - self._log_size

    def cut(self, size: int) -> None:
        self._run.cut_log(self._log_size + size)


@dataclasses.dataclass
class Study:
    """A comparison: its configuration and its results so far."""

    run: Run
    title: str
    description: str
    config: dict[str, Any]
    classes: Sequence[str]
    """Names of the classes."""
    margin: float
    """δ of non-inferiority, in points of quality."""
    checkpoint_seconds: float = 60.0
    max_skipped_steps: int = 10
    rows: list[Row] = dataclasses.field(default_factory=list)
    taught: dict[str, tuple[int, Bool[np.ndarray, "epochs pool"]]] = dataclasses.field(
        default_factory=dict
    )
    """By method: its first seed, and which examples each epoch taught."""
    labels: Int[np.ndarray, "pool"] | None = None
    log_size: int = 0
    """Bytes of the metrics of completed runs."""

    def execute(
        self,
        make_learner: Callable[[], Learner],
        load: Callable[[int], Task],
        budgets: dict[str, float],
        num_seeds: int,
    ) -> int:
        """Run every method of `budgets` for each seed; returns the exit status.

        Seeds are the outer loop, so that the methods' wall times interleave. Ctrl-C
        stops the study and reports the completed runs. SIGTERM saves the current run,
        to be resumed. Batches are split over all devices.
        """
        console = Console(highlight=False, quiet=not self.run.is_writer)
        verb = "Continuing" if self.run.is_resumed else "Writing"
        console.print(f"{verb} in {self.run.folder}")
        if not self.run.is_resumed:
            self.run.write("report.json", self._json(is_complete=False))
        columns = [TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()]
        status, interruption = 130, Interruption()
        with (
            interruption.watched(),
            Progress(*columns, console=console, transient=True) as progress,
        ):
            task = progress.add_task(
                "compiling", total=num_seeds * sum(budgets.values())
            )
            try:
                learner = make_learner()
                mesh = _mesh_for(learner.batch_size)
                for seed in range(num_seeds):
                    data = load(seed)
                    for method in data.methods:
                        self._teach(
                            method,
                            learner,
                            data,
                            seed,
                            budgets[method.name],
                            mesh,
                            interruption,
                            progress,
                            task,
                        )
                status = 0
            except KeyboardInterrupt:
                progress.console.print("Interrupted: reporting the completed runs.")
            except Preempted:
                console.print(
                    f"SIGTERM: saved. Continue with --resume --out {self.run.folder}"
                )
                return 0
            except TooManySkipped as error:
                console.print(f"error: {error}", soft_wrap=True)
                status = 1
        if not self.rows:
            console.print("No run was completed: there is nothing to report.")
            return status
        if self.run.is_writer:
            report = self.report(is_complete=status == 0)
            console.print(report, soft_wrap=True, markup=False)
            console.print(f"Reports and figures are in {self.run.folder}")
        return status

    def _teach(
        self,
        method: Method,
        learner: Learner,
        data: Task,
        seed: int,
        budget: float,
        mesh: Mesh | None,
        interruption: Interruption,
        progress: Progress,
        task: TaskID,
    ) -> None:
        """One run, or its stored result if the study was resumed."""
        name = f"{method.name}-{seed}"
        result = self.run.folder / f"{name}.result.npz"
        checkpoints = self.run.folder / "checkpoints" / name
        if is_done := agree(result.exists()):
            row, taught, self.log_size = _read(result)
            progress.advance(task, budget)
        else:
            reporter = ProgressReporter(
                self.run, self.log_size, method, seed, progress, task
            )
            row, taught = teach(
                method,
                learner,
                data.pool,
                data.held_out,
                seed=seed,
                budget=budget,
                eval_every=len(data.pool),
                observer=reporter,
                mesh=mesh,
                make_safety=lambda target, identity: Safety(
                    checkpoints,
                    target,
                    identity=identity,
                    seconds=self.checkpoint_seconds,
                    max_skipped=self.max_skipped_steps,
                    interruption=interruption,
                ),
            )
            self.log_size = self.run.log_size
            self.run.write(result.name, _packed(row, taught, self.log_size))
        any_process(False)  # waits until all processes have closed their checkpoints
        if self.run.is_writer:
            discard(checkpoints)
        self.rows.append(row)
        if method.name not in self.taught and not taught.all(axis=1).all():
            self.labels = data.labels if self.labels is None else self.labels
            self.taught[method.name] = seed, taught
        self.run.write("report.json", self._json(is_complete=False))
        progress.console.print(
            f"seed {seed}  {method.name:<12} quality {row.quality:6.2f}  "
            f"train {row.wall_train_s:5.1f} s  score {row.wall_score_s:4.1f} s  "
            f"compile {row.compile_s:4.1f} s{'  (done before)' * is_done}"
        )

    def report(self, is_complete: bool) -> str:
        """Write the reports and figures; returns the Markdown report."""
        epochs = defaultdict(list)
        for line in self.run.lines():
            if "epoch" in line:
                epochs[line["method"], line["seed"]].append(line)
        curves = defaultdict(list)
        for row in self.rows:
            evaluated = [e for e in epochs[row.method, row.seed] if "quality" in e]
            curves[row.method].append(
                plots.Curve(
                    [epoch["cost_examples"] for epoch in evaluated],
                    [epoch["quality"] for epoch in evaluated],
                )
            )
        has_choices = self.labels is not None
        figures = ["quality.png", "chosen.png"] if has_choices else ["quality.png"]
        about = ", ".join(f"{name} {value}" for name, value in environment().items())
        note = "" if is_complete else "**Interrupted: this report is partial.** "
        markdown = to_markdown(
            self.rows,
            self.margin,
            title=self.title,
            text=f"{note}{self.description} Made with {about}.",
            figures=figures,
        )
        self.run.write("report.md", markdown)
        self.run.write("report.json", self._json(is_complete))
        plots.quality_against_cost(
            curves,
            self.run.folder / figures[0],
            ylabel="quality: accuracy on held-out examples (%)",
            title=self.title,
        )
        if self.labels is not None:
            choices = {
                method: plots.Choice(
                    np.array([e["cost_examples"] for e in epochs[method, seed]]), taught
                )
                for method, (seed, taught) in self.taught.items()
            }
            plots.chosen_examples(
                choices, self.labels, self.classes, self.run.folder / figures[1]
            )
        return markdown

    def _json(self, is_complete: bool) -> str:
        return to_json(
            self.rows,
            self.margin,
            title=self.title,
            is_complete=is_complete,
            config=self.config,
            environment=environment(),
        )


def _mesh_for(batch_size: int) -> Mesh | None:
    """All devices; in one process as many as divide the batch."""
    devices = jax.devices()
    if jax.process_count() == 1:
        count = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
        devices = devices[: min(count, len(devices))]
    return distributed.make_mesh(devices=devices) if len(devices) > 1 else None


def _packed(row: Row, taught: Bool[np.ndarray, "epochs pool"], log_size: int) -> bytes:
    """A completed run as the content of a file."""
    content = io.BytesIO()
    about = json.dumps({"row": dataclasses.asdict(row), "log_size": log_size})
    np.savez_compressed(content, taught=taught, about=np.array(about))
    return content.getvalue()


def _read(path: Path) -> tuple[Row, Bool[np.ndarray, "epochs pool"], int]:
    try:
        with np.load(path) as content:
            about = json.loads(str(content["about"]))
            return Row(**about["row"]), content["taught"], about["log_size"]
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}): start again in a new folder."
        ) from error
