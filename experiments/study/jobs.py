"""Jobs in turn, with progress, and a report of what is completed."""

from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from experiments.study.preemption import Preempted, TooManySkipped
from experiments.study.workdir import Run

Job = Callable[[Progress, TaskID], None]
"""Does what is left of a job, stores its result, and moves the progress on."""


def run_jobs(run: Run, jobs: Mapping[str, Job], *, total: float) -> int:
    """Run all jobs and report; returns the exit status.

    Ctrl-C stops here and reports what is completed.

    Args:
      run: the folder.
      jobs: by name, in their order; those that are completed only say so.
      total: the jobs' cost, in the unit of the progress.
    """
    run.ask_for(jobs)
    console = Console(highlight=False, quiet=not run.is_writer)
    verb = "Continuing" if run.is_resumed else "Writing"
    console.print(f"{verb} in {run.folder}", soft_wrap=True)
    columns = [TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()]
    way_on, status = f"Continue with --resume --out {run.folder}", 130
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("compiling", total=total)
        try:
            for job in jobs.values():
                job(progress, task)
            status = 0
        except KeyboardInterrupt:
            progress.console.print(f"Interrupted. {way_on}", soft_wrap=True)
        except Preempted:
            progress.console.print(f"SIGTERM: saved. {way_on}", soft_wrap=True)
            return 0
        except TooManySkipped as error:
            progress.console.print(f"error: {error}", soft_wrap=True)
            status = 1
    if run.is_writer:
        _report(run, console)
    return status


def _report(run: Run, console: Console) -> None:
    # Matplotlib takes half a second, for which a wrong option need not wait.
    from experiments.study.report import write_report

    report = write_report([run.folder], run.folder)
    if report is None:
        console.print("Nothing was completed: there is nothing to report.")
        return
    console.print(report, soft_wrap=True, markup=False)
    console.print(f"Report and figures are in {run.folder}")
