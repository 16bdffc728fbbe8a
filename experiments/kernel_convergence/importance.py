"""Where the attention's importance enters the kernel: contributions of Q, K, V and O.

Contributions are shown over training, and over the entropy of the attention as the
logits are scaled. The kernel is shown at the start, early and at the end.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from rich.progress import Progress

from experiments.kernel_convergence.findings import Scale
from experiments.kernel_convergence.learner import (
    descend,
    log_spaced,
    make_learner,
    make_problem,
    stable_learning_rate,
)
from experiments.study.claims import Finding
from experiments.study.plots import new_figure
from theory.attention_ntk import AttentionParams, attention_ntk
from theory.empirical_ntk import empirical_ntk

WEIGHTS = AttentionParams._fields
LOGIT_SCALES = np.concatenate([[0.0], np.logspace(-1.5, 3, 37)])
EARLY = 20


class Importance(NamedTuple):
    """Contributions of W_Q, W_K, W_V and W_O to the kernel."""

    steps: np.ndarray
    over_training: np.ndarray
    """`[steps, 4]` traces on the probe set, as shares of the whole kernel's."""
    entropies: np.ndarray
    """`[scales]` mean entropy of attention over log s, as W_Q is scaled."""
    of_tokens: np.ndarray
    """`[scales, 4, tokens]` of each token's own kernel, in one attention layer."""
    grams: dict[str, np.ndarray]
    """Kernels of the pool, sorted by target, at three moments."""


def measure(scale: Scale, progress: Progress) -> Importance:
    """Train a transformer, and measure one attention layer at initialisation."""
    problem = make_problem(0, scale.num_pool, scale.num_probe, scale.num_tokens)
    learner = make_learner(1, num_heads=2)
    rate = stable_learning_rate(learner, problem) / 2
    descent = descend(learner, problem)

    def only(weight: str):
        return lambda path: weight in path.split("/")

    part_fns = [
        empirical_ntk(learner.outputs_fn, trace_axes=(), trainable=only(weight))
        for weight in WEIGHTS
    ]

    @jax.jit
    def shares(params):
        whole = jnp.trace(learner.kernel_fn(params, problem.probe))
        parts = [jnp.trace(kernel_fn(params, problem.probe)) for kernel_fn in part_fns]
        return jnp.stack(parts) / whole

    order = jnp.argsort(problem.y)
    training = descent.init(learner.params)
    steps = log_spaced(scale.num_steps, per_decade=4)
    moments = {0: "at the start", EARLY: f"at step {EARLY}", steps[-1]: "at the end"}
    over_training, grams = [], {}
    for step in progress.track(sorted({*steps, EARLY}), description="  training"):
        training = descent.run(training, rate, step - int(training.step))
        if step in steps:
            over_training.append(shares(training.params))
        if step in moments:
            kernel = learner.kernel_fn(training.params, problem.x)
            grams[moments[step]] = np.asarray(kernel[order][:, order])
    entropies, of_tokens = _over_entropy(scale)
    return Importance(
        np.array(steps), np.array(over_training), entropies, of_tokens, grams
    )


def _over_entropy(scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    num_heads, width, size = 2, 8, 4
    keys = jax.random.split(jax.random.key(3), 5)
    x = jax.random.normal(keys[0], (scale.num_probe, scale.num_tokens, width), float)
    inputs = [(num_heads, width, size)] * 3
    w_q, w_k, w_v, w_o = (
        jax.random.normal(key, shape, float) / fan_in**0.5
        for key, shape, fan_in in zip(
            keys[1:],
            [*inputs, (num_heads, size, width)],
            [width] * 3 + [num_heads * size],
            strict=True,
        )
    )

    @jax.jit
    def at(logit_scale):
        params = AttentionParams(logit_scale * w_q, w_k, w_v, w_o)
        kernel = attention_ntk(params, x, readout="trace")
        own = [jnp.einsum("nnjj->nj", part).ravel() for part in kernel]
        q = jnp.einsum("nja,hai->nhji", x, params.w_q) / size**0.5
        logits = jnp.einsum("nhji,nhli->nhjl", q, jnp.einsum("nja,hai->nhji", x, w_k))
        weights = jax.nn.softmax(logits)
        entropy = -jnp.sum(weights * jax.nn.log_softmax(logits), axis=-1).mean()
        return entropy / jnp.log(x.shape[1]), jnp.stack(own)

    entropies, of_tokens = zip(*map(at, LOGIT_SCALES), strict=True)
    return np.array(entropies), np.array(of_tokens)


def draw(data: Importance) -> Figure:
    """Draw shares over training, traces over entropy, and three Gram matrices."""
    figure = new_figure(12, 8.5)
    rows = figure.subfigures(2, 1, squeeze=False)[:, 0]
    training, entropy = rows[0].subplots(1, 2)
    names = ["queries W_Q", "keys W_K", "values W_V", "outputs W_O"]
    training.stackplot(
        np.maximum(data.steps, 0.5), data.over_training.T, labels=names, alpha=0.8
    )
    training.set(
        xscale="log",
        xlabel="step (0 drawn at 0.5)",
        ylabel="share of the kernel's trace",
        title="Contributions over training (rest: embedding, MLP, readout)",
        ylim=(0, 1),
    )
    for number, name in enumerate(names):
        part = data.of_tokens[:, number]
        colour = f"C{number}"
        entropy.semilogy(
            data.entropies, np.median(part, axis=1), color=colour, label=name
        )
        entropy.semilogy(data.entropies, part.mean(axis=1), ":", color=colour)
    entropy.set(
        xlabel="attention entropy / log s (0 saturated, 1 uniform)",
        ylabel="contribution to a token's own kernel",
        title="… over entropy, in one layer, W_Q scaled",
        ylim=(1e-6, None),
    )
    panels = rows[1].subplots(1, len(data.grams))
    for axes, (name, gram) in zip(panels, data.grams.items(), strict=True):
        image = axes.imshow(
            gram / np.trace(gram) * len(gram), cmap="RdBu_r", vmin=-2, vmax=2
        )
        axes.set(title=f"Kernel {name}", xlabel="sequence, by target")
        rows[1].colorbar(image, ax=axes, label="K / mean diagonal", shrink=0.8)
    training.legend(loc="upper right")
    entropy.legend(title="median (dotted: mean) of tokens")
    return figure


def judge(data: Importance) -> list[Finding]:
    """At W_Q = 0 attention is uniform; at the largest scale it is saturated."""
    looking = data.of_tokens[:, :2].sum(axis=1) / data.of_tokens.sum(axis=1)
    of_median = np.median(looking, axis=1)
    mean = data.of_tokens.mean(axis=2)
    of_trace = mean[:, :2].sum(axis=1) / mean.sum(axis=1)
    peak, trace_peak = of_median.argmax(), of_trace.argmax()
    is_gone = of_median < 0.01 * of_median[peak]
    gone = peak + is_gone[peak:].argmax()
    undecided = (looking[gone] > 0.01).mean()
    uniform = mean[0] / mean[0].sum()
    saturated = f"at entropy {data.entropies[-1]:.1e} log s"
    return [
        Finding(
            claim="Queries' and keys' share of a token's kernel vanishes as its "
            "attention saturates.",
            measured=f"Of the median token it is at most {of_median[peak]:.2f}, at "
            f"entropy {data.entropies[peak]:.2f} log s; {of_median[gone]:.1e} at "
            f"{data.entropies[gone]:.2f}, and {of_median[-1]:.1e} {saturated}.",
            verdict="holds" if is_gone[-1] else "fails",
        ),
        Finding(
            claim="So does their share of the trace of the layer's kernel.",
            measured=f"In the end: {of_trace[-1]:.2f} {saturated}. Before, it rises to "
            f"{of_trace[trace_peak]:.2f} at {data.entropies[trace_peak]:.3f}, and is "
            f"{of_trace[gone]:.2f} where the median token's is gone: the "
            f"{undecided:.0%} of tokens still undecided there weigh with ‖Q‖², which "
            f"grows as W_Q is scaled.",
            verdict="holds" if of_trace[-1] < 0.05 * of_trace[trace_peak] else "fails",
        ),
        Finding(
            claim="Queries' and keys' contributions vanish when attention is uniform.",
            measured=f"With W_Q = 0 attention is uniform, and queries hold "
            f"{uniform[0]:.2f} of the trace (keys {uniform[1]:.0e}, because "
            f"Q = 0). The covariance does not vanish with the preference.",
            verdict="fails" if uniform[0] > 0.01 else "holds",
        ),
    ]
