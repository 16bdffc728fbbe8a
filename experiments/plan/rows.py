"""Compile a workload's programs for any devices, without data and without running."""

import functools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import PyTree

from attent_jax import distributed, selectors, teachers
from attent_jax.scores import ScoreTable
from attent_jax.typing import Teacher
from experiments.plan.compiled_facts import (
    Collectives,
    Memory,
    collectives_of,
    flops_of,
    memory_of,
)
from experiments.study.compiled import compile_for
from experiments.study.loop import NUM_IN_FLIGHT
from experiments.study.methods import MakeStep, Method, full_batch_step
from experiments.study.workload import Workload

TRAIN_STEP, _UPDATE = "train step", "update of the parameters"
_OUT_OF_MEMORY = re.compile(r"Used ([\d.]+)([KMGT]) of")


class Row(NamedTuple):
    """What a program needs."""

    program: str
    memory: Memory | None
    """None: the compiler refused, because the program does not fit."""
    beside: int
    """Bytes on one device that lie there while the program runs and are not its own:
    the rest of the train state, batches that wait."""
    refused: int
    """Bytes on one device that the compiler found too many; 0 if it compiled."""
    flops: float
    """On one device; a loop's body counts once."""
    one_device: float
    """FLOPs of the same work on one device."""
    repeated: float
    """FLOPs on all devices together of updating replicated parameters again."""
    predicted: float | None
    """Of a selective step: its cost relative to the train step by the cost model."""
    collectives: dict[str, Collectives]
    compile_seconds: float

    @property
    def total(self) -> int:
        """Bytes on one device while the program runs."""
        return self.beside + (self.memory.total if self.memory else self.refused)

    def work(self, num_devices: int) -> float:
        """Work of all devices, but for replicated updates, relative to one device's."""
        return (self.flops * num_devices - self.repeated) / self.one_device


class _Program(NamedTuple):
    lower: Callable[[], jax.stages.Lowered]
    beside: int
    step_cost: float | None = None
    """Of a step, in trained examples per row."""


def plan_workload(
    workload: Workload,
    methods: Sequence[Method],
    num_epochs: int,
    mesh: Mesh,
    memory: int | None = None,
) -> Iterator[Row]:
    """A row for each program, as soon as it is compiled.

    The programs are the train step, the selective steps of the methods, a batch of the
    scoring pass, the update of the recommended teacher, and `top_k` on the pool.

    Args:
      workload: its `example` and `num_examples` stand for the data.
      methods: whose steps are compiled.
      num_epochs: of the recommended teacher, at least 3.
      mesh: devices that are there, or described ones.
      memory: bytes of one device; None: unknown.
    """
    alone = _Alone(workload, methods, num_epochs, mesh, memory)
    for name, program in _programs(workload, methods, num_epochs, mesh).items():
        start = time.perf_counter()
        found, refused, flops, collectives = None, 0, float("nan"), {}
        try:
            compiled = program.lower().compile()
        except jax.errors.JaxRuntimeError as error:
            refused = _needed(error)
        else:
            found, flops = memory_of(compiled), flops_of(compiled)
            collectives = collectives_of(compiled.as_text() or "")
        seconds = time.perf_counter() - start
        yield Row(
            program=name,
            memory=found,
            beside=program.beside,
            refused=refused,
            flops=flops,
            one_device=alone.flops(name, found),
            repeated=alone.repeated() if program.step_cost is not None else 0.0,
            predicted=None if name == TRAIN_STEP else program.step_cost,
            collectives=collectives,
            compile_seconds=seconds,
        )


class _Alone:
    """The same work on one device.

    Compiled for a device of the same kind. Where that needs more memory than the device
    has, FLOPs are counted before XLA optimizes.
    """

    def __init__(
        self,
        workload: Workload,
        methods: Sequence[Method],
        num_epochs: int,
        mesh: Mesh,
        memory: int | None,
    ):
        here = distributed.make_mesh(devices=jax.local_devices()[:1])
        there = distributed.make_mesh(devices=[mesh.devices.flat[0]])
        self._here = _programs(workload, methods, num_epochs, here)
        self._there = _programs(workload, methods, num_epochs, there)
        # A step that only updates the parameters.
        touch = workload._replace(loss_fn=_linear)
        self._here[_UPDATE], self._there[_UPDATE] = (
            _Program(
                functools.partial(_lower_step, touch, full_batch_step, device, 1), 0
            )
            for device in (here, there)
        )
        self._update: float | None = None
        self._mesh, self._memory = mesh, memory or float("inf")
        params = compile_for(workload, full_batch_step, mesh).abstract_state.params
        whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
        self._copies = mesh.size * _size_on_device(params) / whole
        self._is_small = 4 * whole < self._memory

    def flops(self, name: str, memory: Memory | None) -> float:
        """Of a program that needs this memory on each device of the mesh."""
        if memory is None:
            return flops_of(self._here[name].lower())
        needed = (memory.total - memory.code) * self._mesh.size
        return self._count(name, is_small=self._is_small and needed < self._memory)

    def repeated(self) -> float:
        """Of updates beyond one update of every parameter."""
        if self._update is None:
            self._update = self._count(_UPDATE, is_small=False)
            if self._is_small and self._copies > 1.1:
                # The larger count: of the two programs one may simplify the gradient.
                compiled = self._count(_UPDATE, is_small=True)
                self._update = max(self._update, compiled)
        return self._update * (self._copies - 1)

    def _count(self, name: str, *, is_small: bool) -> float:
        if is_small:
            return flops_of(self._there[name].lower().compile())
        return flops_of(self._here[name].lower())


def _linear(params, rng, batch):
    """A loss with a gradient that costs nothing and is not a constant."""
    size = len(jax.tree.leaves(batch)[0])
    total = sum(jnp.sum(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(params))
    return jax.random.normal(rng) * (jnp.zeros(size) + total)


def _programs(
    workload: Workload, methods: Sequence[Method], num_epochs: int, mesh: Mesh
) -> dict[str, _Program]:
    everywhere, split = distributed.replicated(mesh), distributed.batch_sharding(mesh)
    state = compile_for(workload, full_batch_step, mesh).abstract_state
    rng = _place(jax.eval_shape(lambda: jax.random.key(0)), everywhere)
    batch = _place(workload.batch(workload.batch_size), split)
    waiting = NUM_IN_FLIGHT * _size_on_device(batch)

    programs = {}
    steps = {full_batch_step: (TRAIN_STEP, 1.0)}
    for method in methods:
        cost = method.step_cost(workload.score_cost)
        steps.setdefault(method.make_step, (f"step of {method.name}", cost))
    for make_step, (name, cost) in steps.items():
        lower = functools.partial(_lower_step, workload, make_step, mesh)
        programs[name] = _Program(lower, waiting, cost)

    score_fn = compile_for(workload, full_batch_step, mesh).score_fn
    size = min(workload.score_batch_size, workload.num_examples)
    size += -size % mesh.size
    score_batch = _place(workload.batch(size), split)
    programs["scoring pass"] = _Program(
        lambda: jax.jit(score_fn).lower(state.params, rng, score_batch),
        _size_on_device(state)
        - _size_on_device(state.params)
        + NUM_IN_FLIGHT * _size_on_device(score_batch),
    )

    over = mesh if mesh.size > 1 else None
    num_examples = workload.num_examples
    is_even = num_examples % mesh.size == 0
    updates: dict[str, tuple[Teacher, NamedSharding]] = {
        "update of recommended": (
            teachers.recommended(num_epochs, mesh=over),
            everywhere,  # as the table of losses lies
        ),
        "update with top_k": (
            teachers.attent(selectors.top_k(mesh=over), ratio=0.5),
            split if is_even else everywhere,  # as a scoring pass leaves them
        ),
    }
    for name, (teacher, sharding) in updates.items():
        scores = jax.ShapeDtypeStruct((num_examples,), np.float32, sharding=sharding)
        teaching = _place(
            jax.eval_shape(lambda t=teacher: t.init(num_examples)), everywhere
        )
        programs[name] = _Program(
            functools.partial(jax.jit(teacher.update).lower, rng, teaching, scores),
            _size_on_device(state),
        )
    return programs


def _lower_step(
    workload: Workload, make_step: MakeStep, mesh: Mesh, batch_size: int | None = None
) -> jax.stages.Lowered:
    everywhere, split = distributed.replicated(mesh), distributed.batch_sharding(mesh)
    functions, size = compile_for(workload, make_step, mesh), workload.batch_size
    size = batch_size or size
    return functions.step.lower(  # pyright: ignore[reportFunctionMemberAccess]
        functions.abstract_state,
        _place(
            jax.eval_shape(lambda: ScoreTable.init(workload.num_examples)), everywhere
        ),
        _place(jax.eval_shape(lambda: jax.random.key(0)), everywhere),
        _place(workload.batch(size), split),
        jax.ShapeDtypeStruct((size,), np.int32, sharding=everywhere),
        jax.ShapeDtypeStruct((size,), np.float32, sharding=split),
    )


def _place(tree: PyTree, sharding: NamedSharding) -> PyTree:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
    )


def _size_on_device(tree: PyTree) -> int:
    """Bytes of abstract arrays on one device."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _needed(error: Any) -> int:
    """The bytes that the compiler found too many."""
    used = _OUT_OF_MEMORY.search(str(error))
    if used is None:
        raise error
    return int(float(used[1]) * 2 ** (10 * (1 + "KMGT".index(used[2]))))
