"""Methods × seeds: run them interleaved, with progress, and report."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from attent_jax.data import ArrayPool
from experiments import plots
from experiments.comparison import Row
from experiments.report import to_json, to_markdown
from experiments.runs import Run, environment
from experiments.teaching import Epoch, Learner, Method, teach


class Task(NamedTuple):
    """A seed's share of the workload."""

    pool: ArrayPool
    held_out: ArrayPool
    labels: Int[np.ndarray, "pool"]
    methods: Sequence[Method]


@dataclasses.dataclass
class Study:
    """A comparison: what is run, and what has come of it."""

    run: Run
    title: str
    description: str
    config: dict[str, Any]
    classes: Sequence[str]
    """Names of the labels' classes."""
    margin: float
    """δ of non-inferiority, in points of quality."""
    rows: list[Row] = dataclasses.field(default_factory=list)
    curves: dict[str, list[plots.Curve]] = dataclasses.field(default_factory=dict)
    choices: dict[str, plots.Choice] = dataclasses.field(default_factory=dict)
    labels: Int[np.ndarray, "pool"] | None = None

    def execute(
        self,
        build_learner: Callable[[], Learner],
        load: Callable[[int], Task],
        budgets: dict[str, float],
        num_seeds: int,
    ) -> int:
        """Run every method of `budgets` for each seed; returns the exit status.

        Seeds are the outer loop, so that the methods' wall times interleave. Ctrl-C
        ends the study with the report of the runs that are complete.
        """
        console = Console(highlight=False)
        console.print(f"Writing to {self.run.folder}")
        self.run.write("report.json", self._json(is_complete=False))
        columns = [TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()]
        is_complete = False
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(
                "compiling", total=num_seeds * sum(budgets.values())
            )
            try:
                learner = build_learner()
                for seed in range(num_seeds):
                    data = load(seed)
                    for method in data.methods:
                        self._teach(
                            method,
                            learner,
                            data,
                            seed,
                            budgets[method.name],
                            progress,
                            task,
                        )
                is_complete = True
            except KeyboardInterrupt:
                progress.console.print("Interrupted: reporting the runs completed.")
        if not self.rows:
            console.print("No run was completed: nothing to report.")
            return 130
        console.print(self.report(is_complete), soft_wrap=True, markup=False)
        console.print(f"Reports and figures are in {self.run.folder}")
        return 0 if is_complete else 130

    def _teach(self, method, learner, data, seed, budget, progress, task) -> None:
        """One run, told to the progress bar, the metrics and the report."""
        epochs: list[Epoch] = []
        start = time.perf_counter()
        before = progress.tasks[task].completed

        def observe(epoch: Epoch) -> None:
            epochs.append(epoch)
            measures, spent = epoch.measures, epoch.cost_examples
            self.run.log(
                method=method.name,
                seed=seed,
                **{k: v for k, v in epoch._asdict().items() if k != "measures"},
                **measures,
            )
            rate = spent / (time.perf_counter() - start)
            progress.update(
                task,
                completed=before + spent,
                description=f"seed {seed} {method.name:<12} {rate:7,.0f} examples/s",
            )

        row, taught = teach(
            method,
            learner,
            data.pool,
            data.held_out,
            seed=seed,
            budget=budget,
            eval_every=len(data.pool),
            observe=observe,
        )
        self.rows.append(row)
        evaluated = [epoch for epoch in epochs if epoch.measures]
        self.curves.setdefault(method.name, []).append(
            plots.Curve(
                [epoch.cost_examples for epoch in evaluated],
                [epoch.measures["quality"] for epoch in evaluated],
            )
        )
        if method.name not in self.choices and not taught.all(axis=1).all():
            self.labels = data.labels if self.labels is None else self.labels
            costs = np.array([epoch.cost_examples for epoch in epochs])
            self.choices[method.name] = plots.Choice(costs, taught)
        self.run.write("report.json", self._json(is_complete=False))
        progress.console.print(
            f"seed {seed}  {method.name:<12} quality {row.quality:6.2f}  "
            f"train {row.wall_train_s:5.1f} s  score {row.wall_score_s:4.1f} s  "
            f"compile {row.compile_s:4.1f} s"
        )

    def report(self, is_complete: bool) -> str:
        """Write the reports and figures; returns the one in Markdown."""
        figures = ["quality.png"]
        plots.quality_against_cost(
            self.curves,
            self.run.folder / figures[0],
            ylabel="quality: accuracy on held-out examples (%)",
            title=self.title,
        )
        if self.labels is not None:
            figures.append("chosen.png")
            plots.chosen_examples(
                self.choices, self.labels, self.classes, self.run.folder / figures[1]
            )
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
