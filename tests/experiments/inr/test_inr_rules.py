"""Refreshes, iterations and costs of the rules, against a loop in plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from attent_jax import distributed, training
from experiments.inr import rules
from experiments.inr.rules import CONTROLS, ITERATIONS, RULES, full_step, make_methods
from experiments.inr.workloads import Size, make_workload
from experiments.study.compiled import count_flops
from experiments.study.loop import RunSpec, train
from tests.experiments.recording import MemoryCheckpoints, Recorder, Stopped

ALL_RULES = CONTROLS | RULES
NUM_POINTS = 24**2
pytestmark = pytest.mark.usefixtures("flax_promotion")


@pytest.fixture
def flax_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def workload():
    size = Size("picture", 24, width=8, num_layers=1)
    return make_workload(size, ALL_RULES)._replace(snapshot=None)


@pytest.fixture(scope="module")
def signal(workload):
    pool = workload.load(200).train
    return jax.tree.map(jnp.asarray, pool.take(np.arange(NUM_POINTS)))


def one_device():
    return distributed.make_mesh(devices=jax.devices()[:1])


def steps_of(workload, make_step, signal, num_steps, mesh=None):
    """Parameters after some loop steps, and the last step's information."""
    optimizer = optax.adam(1e-3)
    with jax.numpy_dtype_promotion("standard"):
        step = jax.jit(make_step(workload, optimizer, mesh or one_device()))
        params = workload.init_params(jax.random.key(1))
        state = training.init_train_state(params, optimizer)
        infos = []
        for _ in range(num_steps):
            state, info = step(state, jax.random.key(2), signal, np.ones(NUM_POINTS))
            infos.append(info)
    return state, infos[-1]


def by_hand(workload, rule, signal, num_steps):
    """The same as a loop that scores, chooses and iterates one by one."""
    optimizer, rng = optax.adam(1e-3), jax.random.key(2)
    state = training.init_train_state(
        workload.init_params(jax.random.key(1)), optimizer
    )
    train_step = training.make_train_step(workload.loss_fn, optimizer)
    score, choose = rule.make_score(workload), rule.make_choose(None)
    num_selected = rule.count(NUM_POINTS)
    taught, rows, known, info = [], {}, None, None
    for iteration in range(num_steps * ITERATIONS):
        if iteration % rule.interval == 0:
            known = score(state.params, signal)
        if iteration % rule.period == 0:
            own = jax.random.fold_in(rng, iteration)
            selection = choose(own, known, num_selected, iteration // rule.interval)
            ids = np.asarray(selection.indices[:num_selected])
            rows = {name: leaf[ids] for name, leaf in signal.items()}
            taught.append(ids)
        state, info = train_step(state, rng, rows, np.ones(num_selected, np.float32))
    return state, info, taught


@pytest.mark.parametrize("name", ["int", "evos-like", "nint"])
def test_a_loop_step_is_scoring_choosing_and_iterating_by_hand(workload, signal, name):
    rule = ALL_RULES[name]
    state, info = steps_of(workload, rule.make_step, signal, 2)
    expected, last, taught = by_hand(workload, rule, signal, 2)
    assert state.step == expected.step == 2 * ITERATIONS
    jax.tree.map(
        lambda found, like: np.testing.assert_allclose(found, like, atol=1e-5),
        state.params,
        expected.params,
    )
    assert last is not None
    np.testing.assert_allclose(info.loss, last.loss, rtol=1e-3)
    in_last_step = np.unique(np.concatenate(taught[len(taught) // 2 :]))
    np.testing.assert_array_equal(np.flatnonzero(info.is_taught), in_last_step)


def test_a_share_of_one_is_full_training(workload, signal):
    rule = RULES["int"]._replace(share=1.0)
    state, info = steps_of(workload, rule.make_step, signal, 1)
    expected, _ = steps_of(workload, full_step, signal, 1)
    assert info.is_taught.all()
    jax.tree.map(
        lambda found, like: np.testing.assert_allclose(found, like, atol=1e-4),
        state.params,
        expected.params,
    )


def test_large_signals_are_learnt_in_parts(workload, signal, monkeypatch):
    whole, _ = steps_of(workload, RULES["int"].make_step, signal, 1)
    monkeypatch.setattr(rules, "CHUNK_SIZE", NUM_POINTS // 4)
    parts, _ = steps_of(workload, RULES["int"].make_step, signal, 1)
    jax.tree.map(
        lambda found, like: np.testing.assert_allclose(found, like, atol=1e-4),
        parts.params,
        whole.params,
    )


@pytest.mark.parametrize("name", ["random", "evos-like", "error-mix"])
def test_a_rule_costs_what_its_plan_says(name):
    size = Size("picture", 32, width=256, num_layers=2)
    workload = make_workload(size, ALL_RULES)
    # The number of chosen coordinates is rounded; here it is exact.
    rule = ALL_RULES[name]._replace(share=1 / 4)
    full = count_flops(workload, full_step).step
    found = count_flops(workload, rule.make_step).step / full
    assert found == pytest.approx(rule.step_cost(1 / 3) / ITERATIONS, rel=0.03)


@pytest.mark.usefixtures("optimized")
def test_nint_shares_the_forward_pass_between_its_two_scores():
    size = Size("picture", 16, width=256, num_layers=3)
    workload = make_workload(size, ALL_RULES)
    params = jax.eval_shape(workload.init_params, jax.random.key(0))
    batch = workload.batch(workload.num_examples)

    def flops_of(score):
        compiled = jax.jit(score).lower(params, batch).compile()
        analysis = compiled.cost_analysis()
        assert analysis is not None
        return analysis["flops"]

    found = flops_of(rules.nint_scores(workload)) / flops_of(rules.errors(workload))
    assert found == pytest.approx(RULES["nint"].score_cost, rel=0.03)


def test_scores_of_evos_are_stale_and_those_of_error_mix_fresh():
    assert RULES["evos-like"].step_cost(1 / 3) == pytest.approx(10 + 1 / 3)
    assert RULES["error-mix"].step_cost(1 / 3) == pytest.approx(10 + 5 / 3)
    assert CONTROLS["random"].step_cost(1 / 3) == pytest.approx(10)


def test_a_run_that_is_stopped_and_resumed_is_bitwise_the_uninterrupted(workload):
    method = {m.name: m for m in make_methods()}["nint"]
    spec = RunSpec(workload, method, 200, 150.0 * NUM_POINTS, num_evaluations=2)
    recorder, saved = Recorder(), MemoryCheckpoints()
    result = train(spec, mesh=one_device(), hooks=[recorder, saved])
    assert result.num_steps > 4
    stopped = MemoryCheckpoints(stop_at=3)
    with pytest.raises(Stopped):
        train(spec, mesh=one_device(), hooks=[stopped])
    resumed = MemoryCheckpoints(resume_from=stopped.last)
    again = train(spec, mesh=one_device(), hooks=[resumed])
    assert again.measures == result.measures
    same = jax.tree.map(np.array_equal, resumed.last.state, saved.last.state)
    assert jax.tree.all(same)


@pytest.mark.parametrize("name", ["random", "nint"])
def test_two_devices_give_the_same_run_to_rounding(workload, signal, name):
    make_step = ALL_RULES[name].make_step
    mesh = distributed.make_mesh(devices=jax.devices()[:2])
    split = distributed.put(signal, distributed.batch_sharding(mesh))
    state, info = steps_of(workload, make_step, split, 1, mesh)
    expected, like = steps_of(workload, make_step, signal, 1)
    np.testing.assert_allclose(info.loss, like.loss, rtol=1e-3)
    jax.tree.map(
        lambda found, like: np.testing.assert_allclose(found, like, atol=1e-3),
        state.params,
        expected.params,
    )


@pytest.mark.usefixtures("optimized")
def test_devices_divide_the_work_of_scoring_choosing_and_iterating():
    size = Size("picture", 64, width=128, num_layers=2)
    workload, optimizer = make_workload(size, ALL_RULES), optax.adam(1e-3)
    state = jax.eval_shape(
        lambda rng: training.init_train_state(workload.init_params(rng), optimizer),
        jax.random.key(0),
    )

    def flops_on(num_devices):
        mesh = distributed.make_mesh(devices=jax.devices()[:num_devices])
        split = distributed.batch_sharding(mesh)
        batch, weights = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=split),
            (workload.batch(64**2), jax.ShapeDtypeStruct((64**2,), np.float32)),
        )
        step = jax.jit(RULES["nint"].make_step(workload, optimizer, mesh))
        compiled = step.lower(state, jax.random.key(0), batch, weights).compile()
        analysis = compiled.cost_analysis()
        assert analysis is not None
        return analysis["flops"]

    assert 4 * flops_on(4) < 1.05 * flops_on(1)


def test_every_iteration_is_on_the_share_of_the_coordinates():
    assert RULES["int"].count(128**2) == 3264  # 20 % and a multiple of 64
    assert RULES["int"].count(100) == 20
    assert RULES["int"]._replace(share=1e-3).count(100) == 1


@pytest.mark.usefixtures("optimized")
def test_memory_is_bounded_for_pictures_of_four_megapixels():
    size = Size("picture", 2_048, width=64, num_layers=2)
    workload = make_workload(size, ALL_RULES)
    optimizer = optax.adam(1e-3)
    step = RULES["nint"].make_step(workload, optimizer, one_device())
    state = jax.eval_shape(
        lambda rng: training.init_train_state(workload.init_params(rng), optimizer),
        jax.random.key(0),
    )
    batch = workload.batch(workload.num_examples)
    weights = jax.ShapeDtypeStruct((workload.num_examples,), np.float32)
    lowered = jax.jit(step).lower(state, jax.random.key(0), batch, weights)
    memory = lowered.compile().memory_analysis()
    assert memory is not None
    activations = workload.num_examples * 64 * 4  # of one layer
    assert memory.temp_size_in_bytes < activations


def test_devices_need_not_divide_what_is_chosen(workload, signal):
    """64 coordinates on three devices."""
    rule = RULES["nint"]
    mesh = distributed.make_mesh(devices=jax.devices()[:3])
    split = distributed.put(signal, distributed.batch_sharding(mesh))
    _, info = steps_of(workload, rule.make_step, split, 1, mesh)
    _, like = steps_of(workload, rule.make_step, signal, 1)
    np.testing.assert_allclose(info.loss, like.loss, rtol=1e-2)
