"""The study of the kernel: that its figures are made, and what its verdicts mean."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.progress import Progress

from experiments import kernel_convergence
from experiments.kernel_convergence import (
    KernelConvergence,
    canonical,
    consistency,
    drift,
    finite_width,
    greedy,
    importance,
    lazy_rich,
    loss_decrease,
    main,
)
from experiments.kernel_convergence.figures import FIGURES
from experiments.kernel_convergence.findings import Scale
from experiments.study.options import FolderOptions
from experiments.study.workdir import RecordError, Run
from theory.infinite_width import WidthConvergence

TINY = Scale(
    num_pool=8,
    num_probe=8,  # as many as the pool: one kernel is compiled for both
    num_tokens=3,
    num_steps=10,
    num_seeds=2,
    networks=((4, 1, 1),),
    widths=(4, 8),  # one head of size 4, both ways: compiled once
    limit_widths=(2, 8),
    layer_seeds=3,
)


@pytest.fixture
def short(monkeypatch):
    few = {name: drift.TEACHERS[name] for name in ("full", "random")}
    monkeypatch.setattr(drift, "TEACHERS", few)
    monkeypatch.setattr(greedy, "NUM_STEPS", 10)
    monkeypatch.setattr(greedy, "RATES", (0.1, 0.25))
    monkeypatch.setattr(lazy_rich, "NUM_STEPS", 10)
    monkeypatch.setattr(loss_decrease, "NUM_STEPS", 10)
    monkeypatch.setattr(canonical, "PATH_STEPS", 4)
    monkeypatch.setattr(consistency, "STEPS", (0, 3))
    monkeypatch.setattr(importance, "EARLY", 3)


# loss_decrease is made by a whole run, below; the slow ones take 15 s of compilation
DEAR = {"greedy", "lazy_rich"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in DEAR else [])
        for name in FIGURES
        if name != "loss_decrease"
    ],
)
@pytest.mark.usefixtures("short")
def test_every_figure_is_measured_drawn_and_judged(name):
    study = FIGURES[name]
    with jax.enable_x64(True), Progress(disable=True) as progress:
        data = study.measure(TINY, progress)
    assert isinstance(study.draw(data), Figure)
    for finding in study.judge(data):
        assert finding.verdict in ("holds", "fails", "inconclusive")
        assert "nan" not in finding.measured


def verdicts(study, data):
    return [finding.verdict for finding in study.judge(data)]


def falling(last_residual, late_drift):
    steps = np.array([0, 1, 10, 100, 200])
    return drift.Drift(
        network="n",
        teacher="full",
        steps=steps,
        to_last=np.array([0.5, 0.4, 0.1, late_drift, 0.0]),
        from_first=np.array([0, 0.1, 0.3, 0.4, 0.5]),
        velocity=np.array([0, 0.1, 0.1, 0.01, 0.001]),
        residual=np.array([1, 0.9, 0.5, 2 * last_residual, last_residual]),
    )


def test_a_kernel_that_moves_late_does_not_converge():
    assert verdicts(drift, [falling(1e-4, 1e-3)])[0] == "holds"
    assert verdicts(drift, [falling(1e-4, 0.1)])[0] == "fails"
    assert verdicts(drift, [falling(0.1, 1e-3)])[0] == "inconclusive"


def test_order_one_has_slope_one():
    rates = 0.5 ** np.arange(9)
    steps = np.array([0])
    first, second = (
        consistency.Consistency(rates, steps, rates[None] ** order) for order in (1, 2)
    )
    assert verdicts(consistency, first) == ["holds"]
    assert verdicts(consistency, second) == ["fails"]


def test_one_step_above_the_exact_rate_refutes_the_bound():
    exact = np.linspace(1, 0.5, 10)
    ones = np.ones(10)
    data = loss_decrease.LossDecrease(
        measured=exact,
        exact=exact,
        deviation_ratio=2 * ones,
        bound=exact / 2,
        constant=ones,
        admissible=ones / 2,
    )
    assert verdicts(loss_decrease, data) == ["holds", "holds"]
    # no violation seen, but this kernel does not forbid one
    assert verdicts(loss_decrease, data._replace(constant=3 * ones))[1] == (
        "inconclusive"
    )
    # an exact rate that is wrong by a factor deviates alike at every learning rate
    assert verdicts(loss_decrease, data._replace(deviation_ratio=ones))[0] == "fails"
    bound = np.where(np.arange(10) == 7, 2 * exact, exact / 2)
    finding = loss_decrease.judge(data._replace(bound=bound))[1]
    assert finding.verdict == "fails"
    assert "False at 1 of 10 steps, first at step 7" in finding.measured


def test_the_final_kernel_is_judged_where_it_has_settled():
    data = canonical.Canonical(
        learning_rates=0.5 ** np.arange(4),
        path_errors=0.01 * 0.5 ** np.arange(4),
        starts=np.array([0, 10, 100]),
        late_errors=np.array([0.4, 0.2, 0.001]),
        drifts=np.array([0.5, 0.1, 0.001]),
        frozen_error=0.3,
        final_loss_ratio=1e-9,
    )
    assert verdicts(canonical, data) == ["holds", "holds", "fails"]
    assert verdicts(canonical, data._replace(final_loss_ratio=0.1))[1:] == [
        "inconclusive"
    ]
    late = np.array([0.4, 0.2, 0.1])
    assert verdicts(canonical, data._replace(late_errors=late))[1] == "fails"


def test_greedy_must_win_on_every_seed():
    needed = {"greedy": np.array([10.0, 20.0]), "random": np.array([20.0, 30.0])}
    assert greedy._compare("random", needed, "here").verdict == "holds"
    mixed = needed | {"random": np.array([20.0, 15.0])}
    assert greedy._compare("random", mixed, "here").verdict == "inconclusive"
    worse = needed | {"random": np.array([9.0, 15.0])}
    assert greedy._compare("random", worse, "here").verdict == "fails"
    unreached = needed | {"random": np.array([np.inf, 30.0])}
    assert greedy._compare("random", unreached, "here").verdict == "inconclusive"
    at_edge = greedy._compare("random", needed, "here", is_open=True)
    assert at_edge.verdict == "inconclusive"


def test_steps_to_a_loss_that_is_never_reached_are_infinite():
    losses = np.array([[1.0, 0.5, 0.005], [1.0, 0.5, 0.1]])
    assert greedy.steps_to(losses, 0.01).tolist() == [2, np.inf]


def test_scoring_counts_in_the_cost_of_a_step():
    # of 24 examples 6 are trained: 18 forward passes, and 24 more to score them all
    assert greedy.cost_per_step("random", 24) == 18
    assert greedy.cost_per_step("greedy", 24) == 42
    assert greedy.cost_per_step("full", 24) == 72


def test_freezing_needs_a_falling_drift_on_most_seeds():
    widths = np.array([16, 64, 256])
    lazy = np.tile(1 / np.array(lazy_rich.SCALES), (3, 1))
    frozen = np.tile(1 / widths, (3, 1)) * np.array([[1], [2], [3]])
    data = lazy_rich.LazyRich(lazy, widths, frozen, np.ones((3, 3)))
    assert verdicts(lazy_rich, data) == ["holds", "holds", "fails"]
    assert verdicts(lazy_rich, data._replace(by_scale=lazy**2))[0] == "fails"
    # slopes 0, -0.5 and -1: an interval across the threshold
    mixed = widths[None] ** -np.array([[0.0], [0.5], [1.0]])
    mixed = data._replace(by_width_one_head=mixed)
    assert verdicts(lazy_rich, mixed)[2] == "inconclusive"


def test_importance_is_judged_by_token_and_in_the_trace():
    entropies = np.array([1.0, 0.5, 0.0])
    most = np.array([[1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]], float)
    of_tokens = np.repeat(most[:, :, None], 3, axis=2)
    data = importance.Importance(
        np.arange(2), np.ones((2, 4)), entropies, of_tokens, {}
    )
    assert verdicts(importance, data) == ["holds", "holds", "fails"]
    undecided = of_tokens.copy()
    undecided[2, 1, 0] = 100  # one token keeps its keys, and holds most of the trace
    found = importance.judge(data._replace(of_tokens=undecided))
    assert [finding.verdict for finding in found] == ["holds", "fails", "fails"]
    assert "the 33% of tokens still undecided" in found[1].measured


def test_the_limit_is_approached_at_its_rate():
    def convergence(slope):
        return WidthConvergence((4, 8), np.ones((2, 2)), np.ones(2), slope)

    assert verdicts(finite_width, convergence(-1.0)) == ["holds"]
    assert verdicts(finite_width, convergence(-0.2)) == ["fails"]


@pytest.mark.usefixtures("short")
def test_a_run_writes_what_is_done_and_keeps_it_when_interrupted(
    tmp_path, monkeypatch, capsys
):
    def interrupt(scale, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(consistency, "measure", interrupt)
    folder = FolderOptions(out=tmp_path / "run")
    config = KernelConvergence(("loss_decrease", "consistency"), run=folder)
    assert main(config, scale=TINY) == 130
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert not report["is_complete"]
    (figure,) = report["figures"]
    assert figure["name"] == "loss_decrease"
    for finding in figure["findings"]:
        assert finding["verdict"] in ("holds", "fails", "inconclusive")
        assert "nan" not in finding["measured"]
    assert figure["environment"]["neural-tangents"]
    markdown = (tmp_path / "run" / "report.md").read_text()
    assert "Incomplete" in markdown
    assert "![" in markdown
    assert (tmp_path / "run" / "loss_decrease.png").stat().st_size > 10_000
    assert "Proposition 4" in capsys.readouterr().out
    with pytest.raises(RecordError, match="out="):
        main(config, scale=TINY)
    # What is completed is not measured again. This process still has the lock.
    monkeypatch.setattr(Run, "_lock", lambda self: None)
    monkeypatch.setattr(loss_decrease, "measure", interrupt)
    folder = FolderOptions(out=tmp_path / "run", resume=True)
    assert main(KernelConvergence(("loss_decrease",), run=folder), scale=TINY) == 0
    assert "(done before)" in capsys.readouterr().out
    again = json.loads((tmp_path / "run" / "report.json").read_text())
    assert again == report  # "consistency" was asked for and is still missing


def test_no_figure_is_refused():
    with pytest.raises(ValueError, match="figures is empty"):
        KernelConvergence(figures=())


def test_the_presets_grow():
    laptop, h200, paper = kernel_convergence.PRESETS.values()
    assert laptop.num_pool < h200.num_pool < paper.num_pool
    assert all(scale.num_seeds >= 3 for scale in (laptop, h200, paper))


def test_other_experiments_run_without_neural_tangents():
    program = (
        "import sys; sys.modules['neural_tangents'] = None\n"
        "from experiments.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as exit: assert not exit.code\n"
        "sys.exit(main(['kernel-convergence']))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert "kernel-convergence" in found.stdout
    assert found.returncode == 2
    assert "theory/ needs neural-tangents" in found.stderr
    assert "Traceback" not in found.stderr
