"""What the benchmarks count and keep."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from attent_jax import distributed
from experiments.benchmarks.interleaved import store, time_interleaved
from experiments.benchmarks.ntk_refresh import make_programs
from experiments.benchmarks.scaling import bytes_moved
from experiments.benchmarks.selective_step import predicted


def test_bytes_moved_are_the_collectives_results():
    mesh = distributed.make_mesh()
    split, whole = PartitionSpec("data"), PartitionSpec()

    def program(x):
        gathered = jax.lax.all_gather(x, "data", tiled=True)
        return gathered, jax.lax.psum(jnp.sum(x.astype(jnp.float32)), "data")

    sharded = jax.shard_map(
        program, mesh=mesh, in_specs=split, out_specs=(whole, whole), check_vma=False
    )
    compiled = jax.jit(sharded).lower(jnp.zeros(800, jnp.int16)).compile().as_text()
    assert bytes_moved(compiled or "") == 800 * 2 + 4
    assert bytes_moved("ROOT add = f32[8] add(x, y)") == 0


@pytest.mark.parametrize(
    ("way", "ratio", "backward", "share"),
    [
        ("full", 1.0, 2, 1.0),
        ("two passes", 0.5, 2, 2.5 / 3),
        ("re-use", 0.5, 2, 2 / 3),
        ("two passes", 0.25, 3, 0.5),
        ("re-use", 0.25, 3, 1.75 / 4),
    ],
)
def test_the_cost_model_of_a_step(way, ratio, backward, share):
    assert predicted(way, ratio, backward) == pytest.approx(share)


@pytest.mark.parametrize(("chunk_size", "ratio"), [(None, 5 / 3), (32, 2.0)])
def test_a_refresh_of_the_ntk_score_costs_what_the_docstring_says(
    optimized, chunk_size, ratio
):
    programs, arguments = make_programs(64, 3, 64, chunk_size)
    base, refresh = (
        program.lower(*arguments).compile().cost_analysis()["flops"]
        for program in programs.values()
    )
    # without a shared forward pass 2.0, with one that is repeated 2.3
    assert refresh / base == pytest.approx(ratio, rel=0.03)


@dataclasses.dataclass(frozen=True)
class Config:
    repeats: int = 3


def test_rows_are_kept_with_their_machine(tmp_path):
    path = tmp_path / "rows.jsonl"
    store(path, "some", Config(), [{"ratio": 0.5}])
    store(path, "some", Config(), [{"ratio": 0.7}])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["ratio"] for row in rows] == [0.5, 0.7]
    assert rows[0]["config"] == {"repeats": 3}
    assert "device" in rows[0]["environment"]
    store(None, "some", Config(), [{"ratio": 0.5}])


def test_contestants_take_turns():
    calls = []
    seconds = time_interleaved(
        {name: lambda name=name: calls.append(name) for name in "ab"}, repeats=4
    )
    assert set(seconds) == {"a", "b"}
    assert [set(calls[i : i + 2]) for i in range(0, 10, 2)] == [{"a", "b"}] * 5
