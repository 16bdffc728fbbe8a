"""What holds for every workload, whatever is learnt: checked at smoke size."""

import functools
from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from attent_jax import distributed
from attent_jax.data import ArrayPool
from experiments import demo, digits
from experiments.study import loop
from experiments.study.compiled import compile_for
from experiments.study.hooks import Hook, Taught, read_taught
from experiments.study.loop import RunSpec, stream, train
from experiments.study.methods import STANDARD_METHODS, full_batch_step
from experiments.study.workload import Workload
from tests.compilations import compilations
from tests.experiments import tiny_study
from tests.experiments.recording import MemoryCheckpoints, Recorder, Stopped

METHODS = {method.name: method for method in STANDARD_METHODS}
MIN_SPLIT_SIZE = 64
"""Elements of the smallest leaf that is split over the devices."""


def smoke(workload: Workload, num_examples: int) -> Workload:
    """The workload on the first examples of its pools, its large leaves split."""

    @functools.lru_cache(maxsize=4)
    def load(seed):
        split = workload.load(seed)
        train, held_out = (
            ArrayPool(pool.take(np.arange(num_examples)))
            for pool in (split.train, split.held_out)
        )
        groups = None if split.groups is None else split.groups[:num_examples]
        return split._replace(train=train, held_out=held_out, groups=groups)

    return workload._replace(
        load=load,
        num_examples=num_examples,
        score_batch_size=num_examples,
        shardings=split_large_leaves,
        fsdp=None,
    )


def split_large_leaves(mesh: Mesh, state):
    return distributed.fsdp_shardings(mesh, state, min_size=MIN_SPLIT_SIZE)


WORKLOADS = {
    "tiny": lambda: smoke(tiny_study.WORKLOAD, 64),
    "demo": lambda: smoke(demo.make_workload(), 256),
    "digits": lambda: smoke(digits.WORKLOAD, 128),
}
MORE_METHODS = {"tiny": ("attent-soft", "in-batch")}
"""By workload, the methods that the tests run besides "recommended"."""


class Case(NamedTuple):
    """A workload, the meshes it runs on, and the loss function's traces so far."""

    workload: Workload
    mesh: Mesh
    one_device: Mesh
    methods: tuple[str, ...]
    traces: list[None]

    def spec(self, name="recommended", *, seed=1, num_evaluations=1):
        """A run that costs two epochs and a half."""
        budget = 2.5 * self.workload.num_examples
        return RunSpec(self.workload, METHODS[name], seed, budget, num_evaluations)

    def run(self, name="recommended", *, mesh=None, hooks=(), **spec):
        """What a run did, and what it saved last."""
        recorder, saved = Recorder(), MemoryCheckpoints()
        hooks = (recorder, saved, *hooks)
        train(self.spec(name, **spec), mesh=mesh or self.mesh, hooks=hooks)
        return recorder, saved


@pytest.fixture(
    scope="module",
    params=["tiny", "digits", pytest.param("demo", marks=pytest.mark.slow)],
)
def case(request):
    traces = []
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)  # compiles faster
    workload: Workload = WORKLOADS[request.param]()

    def loss_fn(params, rng, batch):
        traces.append(None)
        return workload.loss_fn(params, rng, batch)

    make_mesh, devices = distributed.make_mesh, jax.devices()
    with jax.numpy_dtype_promotion("standard"):  # Flax relies on it
        yield Case(
            workload._replace(loss_fn=loss_fn),
            make_mesh(fsdp=2, devices=devices[:2]),
            make_mesh(devices=devices[:1]),
            ("recommended", *MORE_METHODS.get(request.param, ())),
            traces,
        )
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def reference(case):
    """A run left alone."""
    return case.run()


def test_a_kind_of_step_is_traced_once_for_all_seeds_and_methods(case, reference):
    for name in case.methods:
        case.run(name)
    num_traces = len(case.traces)
    with compilations() as compiled:
        for name in case.methods:
            case.run(name, seed=2)
    assert not compiled
    case.run("full-short", seed=3)
    assert len(case.traces) == num_traces
    for name in case.methods:
        functions = compile_for(case.workload, METHODS[name].make_step, case.mesh)
        assert functions.step._cache_size() == 1  # pyright: ignore


def test_a_seed_reproduces_the_run_and_another_one_does_not(case, reference):
    recorder, saved = case.run()
    assert recorder.epochs == reference[0].epochs
    assert saved.params_crc32 == reference[1].params_crc32
    np.testing.assert_array_equal(recorder.ids, reference[0].ids)
    np.testing.assert_array_equal(recorder.losses, reference[0].losses)
    assert recorder.evaluations == reference[0].evaluations
    other, other_saved = case.run(seed=2)
    assert (other.ids != recorder.ids).any()
    assert other_saved.params_crc32 != saved.params_crc32


def test_evaluation_does_not_disturb_training(case, reference):
    recorder, saved = case.run(num_evaluations=6)
    assert len(recorder.evaluations) == 6
    assert recorder.epochs == reference[0].epochs
    assert recorder.evaluations[-1] == reference[0].evaluations[-1]
    assert saved.params_crc32 == reference[1].params_crc32


def test_a_run_stopped_anywhere_and_resumed_is_bitwise_the_uninterrupted(
    case, monkeypatch
):
    monkeypatch.setattr(loop, "CHUNK_SIZE", 1)  # steps between chances to stop
    for name in case.methods:
        spec = case.spec(name)
        recorder, saved = case.run(name)
        saves = saved.saves["training"]
        stops = {save.position["epoch_step"] for save in saves}
        assert len(stops) > 1  # also in the middle of an epoch
        for stop_at in (1, len(saves) // 2, len(saves) - 1):
            first, stopped = Recorder(), MemoryCheckpoints(stop_at=stop_at)
            with pytest.raises(Stopped):
                train(spec, mesh=case.mesh, hooks=[first, stopped])
            second, resumed = Recorder(), MemoryCheckpoints(resume_from=stopped.last)
            result = train(spec, mesh=case.mesh, hooks=[second, resumed])
            assert first.epochs + second.epochs == recorder.epochs
            ids = np.concatenate([first.ids, second.ids])
            np.testing.assert_array_equal(ids, recorder.ids)
            assert result.measures == recorder.evaluations[-1].measures
            same = jax.tree.map(np.array_equal, resumed.last.state, saved.last.state)
            assert jax.tree.all(same)


def distance(params, others) -> float:
    """Between all parameters."""
    squares = jax.tree.map(
        lambda one, other: np.sum((one - other) ** 2), params, others
    )
    return float(np.sqrt(sum(jax.tree.leaves(squares))))


def assert_same_to_rounding(case, found, expected):
    recorder, saved = found
    like, like_saved = expected
    np.testing.assert_array_equal(recorder.ids, like.ids)
    np.testing.assert_allclose(recorder.losses, like.losses, rtol=1e-4)
    # Adam turns a gradient that is 0 to rounding into steps of the learning rate.
    functions = compile_for(case.workload, full_batch_step, case.mesh)
    initial = jax.device_get(functions.init(jax.random.key(1), 1.0, 1.0).params)
    trained = distance(initial, like_saved.params)
    assert distance(saved.params, like_saved.params) < 0.02 * trained


def test_devices_that_share_batch_and_parameters_give_the_same_run_to_rounding(case):
    for name in case.methods:
        if METHODS[name].make_step is not full_batch_step:
            continue  # it selects within each device's part of the batch
        one_device = case.run(name, mesh=case.one_device)
        assert_same_to_rounding(case, case.run(name), one_device)


def test_parameters_are_created_where_they_belong(case):
    functions = compile_for(case.workload, full_batch_step, case.mesh)
    state = functions.init(jax.random.key(1), 10.0, 1e-3)
    num_split = 0
    for leaf in jax.tree.leaves(state):
        divides = any(size % 2 == 0 for size in leaf.shape)
        is_large = leaf.size >= MIN_SPLIT_SIZE and divides
        assert leaf.sharding.is_fully_replicated != is_large
        shard = leaf.addressable_shards[0].data
        assert shard.size == leaf.size // (2 if is_large else 1)
        num_split += is_large
    num_large = sum(
        leaf.size >= MIN_SPLIT_SIZE for leaf in jax.tree.leaves(state.params)
    )
    assert num_split > num_large > 0  # the optimizer's moments, too


def test_steps_within_the_batch_teach_and_record_only_what_they_selected(
    case, tmp_path
):
    if "in-batch" not in case.methods:
        return
    size, spec = case.workload.batch_size, case.spec("in-batch")
    spec = spec._replace(budget=0.8 * case.workload.num_examples)
    recorder, memory = Recorder(), MemoryCheckpoints()
    hooks = [recorder, memory, Taught(tmp_path / "taught.ids")]
    train(spec, mesh=case.mesh, hooks=hooks)
    assert (recorder.is_taught.sum(axis=1) == size // 2).all()
    taught = recorder.ids[recorder.is_taught]
    assert read_taught(tmp_path / "taught.ids").tolist() == taught.tolist()
    assert recorder.epochs[-1].num_taught == len(taught)
    recorded = np.isfinite(memory.last.state["table"].losses)
    assert set(np.flatnonzero(recorded)) == set(taught.tolist())
    assert set(taught.tolist()) < set(recorder.ids.ravel().tolist())


def test_a_new_consumer_of_randomness_changes_no_other_numbers(case, reference):
    class Consumer(Hook):
        """Draws from a stream of its own, and from NumPy's, at every event."""

        def on_steps(self, steps):
            jax.random.normal(stream(1, "new"))
            np.random.normal()  # noqa: NPY002

    recorder, saved = case.run(hooks=[Consumer()])
    assert recorder.epochs == reference[0].epochs
    assert saved.params_crc32 == reference[1].params_crc32


def test_streams_differ_by_name_and_seed_alone():
    keys = [
        jax.random.key_data(stream(seed, name)).tolist()
        for seed in (1, 2)
        for name in ("loss", "scores", "new")
    ]
    assert all(keys.count(key) == 1 for key in keys)
    assert jax.random.key_data(stream(1, "loss")).tolist() == keys[0]
