"""The peers' rules are what their papers say, and their learner is the demo's."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax import distributed, models
from attent_jax.scores import ScoreTable
from experiments.benchmarks import peer_rules
from experiments.benchmarks.peers import Peers
from experiments.demo import BATCH_SIZE, make_workload, unicode_names
from experiments.study.compiled import compile_for
from experiments.study.methods import full_batch_step

ROOT = Path(__file__).parents[2]


class Recorder:
    """A learner whose losses never change."""

    def __init__(self, losses):
        self.losses, self.steps, self.scored = losses, [], []

    def step(self, ids, done, weights=None):
        weights = np.ones(len(ids)) if weights is None else weights
        self.steps.append((ids, done, weights))
        return self.losses[ids]

    def score(self, ids):
        self.scored.append(ids)
        return self.losses[ids]


def shuffled(num_examples, num_epochs):
    rng = np.random.default_rng(1)
    return [rng.permutation(num_examples) for _ in range(num_epochs)]


def test_full_passes_over_everything_in_order():
    recorder, orders = Recorder(np.zeros(160)), shuffled(160, 2)
    peer_rules.full(recorder, orders, np.random.default_rng(0))
    ids, done, _ = zip(*recorder.steps, strict=True)
    np.testing.assert_array_equal(np.concatenate(ids), np.concatenate(orders))
    np.testing.assert_allclose(done, [0, 0.2, 0.4, 0.5, 0.7, 0.9])


@pytest.mark.parametrize("beta", [1, 2, 3])
def test_percentile_to_the_beta_keeps_one_in_beta_plus_one(beta):
    losses = np.random.default_rng(0).exponential(size=1024)
    kept = peer_rules.keep_probability(losses, losses, beta)
    assert kept.mean() == pytest.approx(1 / (beta + 1), abs=1e-3)
    assert (np.argsort(kept) == np.argsort(losses)).all()


def test_tied_losses_share_the_middle_of_their_percentiles():
    kept = peer_rules.keep_probability(np.array([0.0, 5.0]), np.array([0.0, 5, 5, 5]))
    np.testing.assert_allclose(kept, [1 / 8, 5 / 8])


def test_selective_backprop_trains_full_batches_drawn_by_percentile():
    num_examples, num_epochs = 640, 100
    recorder = Recorder(np.arange(num_examples, dtype=np.float32))
    orders = shuffled(num_examples, num_epochs)
    peer_rules.selective_backprop(recorder, orders, np.random.default_rng(0))
    assert sum(map(len, recorder.scored)) == num_examples * num_epochs
    ids, done, _ = zip(*recorder.steps, strict=True)
    assert {len(batch) for batch in ids} == {BATCH_SIZE}
    assert (np.diff(done) > 0).all()
    assert done[-1] < 1
    rates = np.bincount(np.concatenate(ids), minlength=num_examples) / num_epochs
    percentiles = (np.arange(num_examples) + 0.5) / num_examples
    tenths = np.stack([rates, percentiles]).reshape(2, 10, -1).mean(-1)
    np.testing.assert_allclose(*tenths, atol=0.03)


def test_infobatchs_weighted_losses_are_the_full_ones_in_expectation():
    rng = np.random.default_rng(0)
    losses = rng.exponential(size=100).astype(np.float32)
    drawn = np.array([peer_rules.infobatch_weights(losses, rng) for _ in range(4000)])
    # without rescaling 0.5 below the mean
    np.testing.assert_allclose(drawn.mean(axis=0), 1, atol=0.1)
    assert (drawn @ losses).mean() == pytest.approx(losses.sum(), rel=0.01)
    assert (drawn[:, losses >= losses.mean()] == 1).all()
    assert set(np.unique(drawn)) == {0, 1, 2}


def test_infobatch_prunes_after_the_first_epoch_and_not_in_the_last():
    num_examples, num_epochs = 1000, 8
    losses = np.arange(num_examples, dtype=np.float32)
    recorder, orders = Recorder(losses), shuffled(num_examples, num_epochs)
    peer_rules.infobatch(recorder, orders, np.random.default_rng(0))
    for epoch in range(num_epochs):
        steps = [step for step in recorder.steps if int(step[1] * num_epochs) == epoch]
        ids = np.concatenate([step[0] for step in steps])
        weights = np.concatenate([step[2] for step in steps])
        assert len(np.unique(ids)) == len(ids)
        if epoch in (0, num_epochs - 1):
            assert len(ids) == num_examples
            assert (weights == 1).all()
        else:
            assert 700 < len(ids) < 800
            np.testing.assert_array_equal(weights, np.where(losses[ids] < 499.5, 2, 1))
        assert not recorder.scored


def test_the_learner_in_torch_trains_as_the_demos():
    torch_learner = pytest.importorskip("experiments.benchmarks.torch_learner")
    torch_learner.torch.set_num_threads(1)
    workload, num_steps, rng = make_workload(), 30, jax.random.key(0)
    mesh = distributed.make_mesh(devices=jax.devices()[:1])
    functions = compile_for(workload, full_batch_step, mesh)
    pool = workload.load(0).train
    state = functions.init(rng, float(num_steps), workload.learning_rate)
    table = ScoreTable.init(len(pool))
    peer = torch_learner.TorchLearner(state.params, pool)
    ids = np.arange(num_steps * BATCH_SIZE).reshape(num_steps, BATCH_SIZE)
    weights = np.tile(np.array([0.5, 1.5], np.float32), BATCH_SIZE // 2)
    for step in range(num_steps):
        batch = pool.take(ids[step])
        state, table, _ = functions.step(state, table, rng, batch, ids[step], weights)
        peer.step(ids[step], step / num_steps, weights)
    model = models.TextClassifier(
        vocabulary_size=unicode_names.VOCABULARY_SIZE,
        num_classes=len(unicode_names.categories()),
        width=48,
        num_layers=2,
        num_heads=2,
        mlp_ratio=2,
    )

    tokens = pool.take(np.arange(500))["tokens"]

    def logits(params):
        return np.asarray(model.apply(params, jnp.asarray(tokens)))

    theirs = torch_learner.logits(peer.params, peer.tokens[:500]).detach().numpy()
    # Trained, so that no bias is 0 and no scale 1.
    np.testing.assert_allclose(theirs, logits(peer.flax_params()), atol=1e-4)
    # Off by 1e-4; with torch's own weight decay by 0.03, with its epsilon by as much.
    np.testing.assert_allclose(theirs, logits(state.params), atol=2e-3)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="has torch")
def test_without_torch_the_benchmark_says_how_to_install_it():
    command = [sys.executable, "-m", "experiments.benchmarks.peers"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr
    assert "torch is not installed" in finished.stdout
    assert "pip install torch" in finished.stdout


@pytest.mark.parametrize("bad", [{"seeds": 0}, {"epochs": 2}])
def test_bad_options_are_refused(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        Peers(**bad)
