"""The loop never waits for a step that was dispatched just before."""

import jax
import numpy as np
import pytest

from attent_jax import distributed
from experiments.study import loop
from experiments.study.hooks import Hook
from experiments.study.loop import NUM_IN_FLIGHT, RunSpec, train
from experiments.study.methods import STANDARD_METHODS
from tests.experiments import tiny_study

METHODS = {method.name: method for method in STANDARD_METHODS}
CHUNK_SIZE = 5


class Waits:
    """Which steps the host waited for, and how many were dispatched by then."""

    def __init__(self):
        self.num_dispatched = 0
        self.waits: list[tuple[int, int]] = []
        """`(dispatched so far, the step waited for)`"""
        self.read: list[tuple[int, int, int]] = []
        """`(dispatched so far, first step, steps)` of each `on_steps`."""

    def record(self, step: int) -> None:
        self.waits.append((self.num_dispatched, step))

    def record_all(self) -> None:
        self.record(self.num_dispatched - 1)


class Result:
    """An array that a step leaves; records every wait for it."""

    def __init__(self, array: jax.Array, step: int, waits: Waits):
        self._array, self._step, self._waits = array, step, waits

    def copy_to_host_async(self) -> None:
        self._array.copy_to_host_async()

    def block_until_ready(self) -> "Result":
        self._waits.record(self._step)
        self._array.block_until_ready()
        return self

    def __array__(self, *args, **kwargs) -> np.ndarray:
        self._waits.record(self._step)
        return np.asarray(self._array, *args, **kwargs)

    def __getattr__(self, name):
        """Everything else, such as `item` and `sum`, needs the value."""
        self._waits.record(self._step)
        return getattr(self._array, name)

    def __float__(self) -> float:
        return float(self.__array__())

    def __int__(self) -> int:
        return int(self.__array__())

    def __bool__(self) -> bool:
        return bool(self.__array__())


class RecordReads(Hook):
    def __init__(self, waits: Waits):
        self._waits = waits

    def on_steps(self, steps) -> None:
        now = self._waits.num_dispatched
        self._waits.read.append((now, steps.first, len(steps.losses)))


@pytest.fixture
def waits(monkeypatch) -> Waits:
    """Records every wait of the loop: for a step's results, or for all of its state."""
    waits = Waits()
    compile_for = loop.compile_for

    def compile_recorded(*args):
        functions = compile_for(*args)

        def step(*args):
            state, table, outcome = functions.step(*args)
            number = waits.num_dispatched
            waits.num_dispatched += 1
            outcome = jax.tree.map(lambda leaf: Result(leaf, number, waits), outcome)
            return state, table, outcome

        return functions._replace(step=step)

    monkeypatch.setattr(loop, "compile_for", compile_recorded)
    monkeypatch.setattr(loop, "CHUNK_SIZE", CHUNK_SIZE)
    for name in ("block_until_ready", "device_get"):
        function = getattr(jax, name)

        def recorded(tree, function=function):
            if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree)):
                waits.record_all()
            return function(tree)

        monkeypatch.setattr(jax, name, recorded)
    return waits


def test_no_wait_between_two_dispatches_is_for_a_recent_step(waits):
    workload = tiny_study.WORKLOAD
    spec = RunSpec(workload, METHODS["recommended"], 1, 3 * workload.num_examples, 1)
    mesh = distributed.make_mesh(devices=jax.devices()[:1])
    train(spec, mesh=mesh, hooks=[RecordReads(waits)])
    ends = set(np.cumsum((0, *spec.plan().steps_per_epoch)).tolist())
    assert waits.num_dispatched == max(ends)
    in_epoch = [wait for wait in waits.waits if wait[0] not in ends]
    assert len(in_epoch) > max(ends) / 2  # the loop does wait, or it would run ahead
    late = [wait for wait in in_epoch if wait[1] > wait[0] - NUM_IN_FLIGHT]
    assert not late
    # Results are read while the devices have the next chunk.
    for num_dispatched, first, size in waits.read:
        assert num_dispatched >= first + size + CHUNK_SIZE or num_dispatched in ends
    assert sum(size for *_, size in waits.read) == max(ends)
