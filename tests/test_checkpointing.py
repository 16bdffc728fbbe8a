"""Checkpoints: bitwise back, refused when foreign or damaged, whole after a kill."""

import gc
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from attent_jax import scores, selectors, teachers, training
from attent_jax.checkpointing import Checkpointer, CheckpointError
from tests.compilations import compilations

ROOT = Path(__file__).parent.parent
IDENTITY = {"config": {"seed": 0, "rates": [0.1, 0.01]}, "pool": 1000}
Pair = namedtuple("Pair", ["first", "second"])
Riap = namedtuple("Riap", ["second", "first"])


def is_key(leaf):
    return isinstance(leaf, jax.Array) and jnp.issubdtype(
        leaf.dtype, jax.dtypes.prng_key
    )


def told(leaf):
    """All that must come back of a leaf: what it is, and its bits."""
    if is_key(leaf):
        kind, array = str(leaf.dtype), jax.random.key_data(leaf)
    else:
        kind, array = getattr(leaf, "dtype", type(leaf)), leaf
    weak = getattr(leaf, "weak_type", False)
    array = np.asarray(array)
    numpy_like = type(leaf) if not isinstance(leaf, jax.Array) else jax.Array
    return numpy_like, kind, weak, array.shape, array.tobytes()


def assert_same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for leaf, twin in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert told(leaf) == told(twin)


def checkpointer(folder, target, identity=IDENTITY, **options):
    return Checkpointer(folder, target, identity=identity, **options)


def saved(folder, state, *steps, **options):
    """A folder with checkpoints of these steps."""
    with checkpointer(folder, state, **options) as writer:
        writer.restore()
        for step in steps:
            writer.save(step, state, {"epoch": step})


def restored(folder, target, step=None, **options) -> Any:
    with checkpointer(folder, target, **options) as reader:
        return reader.restore(step)


def mesh(*shape, axis_type=AxisType.Auto):
    names = ("data", "model")[: len(shape)]
    return jax.make_mesh(shape, names, axis_types=(axis_type,) * len(shape))


def placed(x, mesh, *spec):
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))


NUMPY = ["bool", "int8", "uint16", "int64", "float16", "float32", "float64"]
NUMPY += ["complex64", "complex128", ml_dtypes.bfloat16]
JAX = ["bool", "int4", "int32", "uint8", "bfloat16", "float16", "float32", "complex64"]
JAX += ["float8_e4m3fn"]


def arrays(dtype):
    """Arrays of any bits (NaN's payloads, −0, subnormals), empty and 0-d ones too."""
    dtype = np.dtype(dtype)
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    if dtype.name in ("bool", "int4"):
        bits = shapes.flatmap(lambda shape: hnp.arrays(np.int8, shape))
        return bits.map(lambda x: (x % 2).astype(dtype))
    bits = shapes.flatmap(lambda s: hnp.arrays(np.uint8, (*s, dtype.itemsize)))
    return bits.map(lambda x: np.asarray(x.view(dtype)[..., 0]))


LEAVES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.complex_numbers(),
    st.sampled_from(NUMPY).flatmap(arrays),
    st.integers(0, 9).map(np.int32) | st.floats().map(np.float64),
    st.sampled_from(JAX).flatmap(lambda name: arrays(jnp.dtype(name))).map(jnp.asarray),
    st.floats(-1, 1).map(lambda x: jnp.full(3, x)),  # weakly typed
    st.builds(
        lambda seed, impl, count: jax.random.split(
            jax.random.key(seed, impl=impl), count
        ),
        st.integers(0, 100),
        st.sampled_from(["threefry2x32", "rbg"]),
        st.integers(1, 3),
    ),
    st.integers(0, 100).map(jax.random.key),
)
TREES = st.recursive(
    LEAVES | st.none(),
    lambda trees: (
        st.dictionaries(st.text(max_size=3), trees, max_size=3)
        | st.lists(trees, max_size=3)
        | st.builds(Pair, trees, trees)
    ),
    max_leaves=8,
)


@settings(max_examples=20)
@given(tree=TREES, position=st.dictionaries(st.text(), st.floats(allow_nan=False)))
def test_any_state_comes_back_bitwise(tmp_path_factory, tree, position):
    folder = tmp_path_factory.mktemp("any")
    with checkpointer(folder, tree) as writer:
        writer.save(3, tree, position)
    found = restored(folder, tree)
    assert (found.step, found.position) == (3, position)
    assert_same(found.state, tree)
    shutil.rmtree(folder)


def test_what_is_saved_is_the_state_at_the_save(tmp_path):
    counts, weights = np.arange(100_000), jnp.arange(100_000.0)
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    with checkpointer(tmp_path, (counts, weights)) as writer:
        writer.save(1, (counts, weights))
        counts[:] = -1
        overwrite(weights).block_until_ready()
        state = writer.restore().state  # pyright: ignore
    np.testing.assert_array_equal(state[0], np.arange(100_000))
    np.testing.assert_array_equal(state[1], np.arange(100_000.0))
    state[0][0] = 5  # may be written to, as what was saved


def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path, compile_fast):
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    optimizer = optax.adam(0.1)
    teacher = teachers.attent(selectors.gumbel_top_k(0.5), ratio=0.5)
    train_step = training.build_train_step(
        lambda params, rng, batch: (batch @ params["w"] - params["b"]) ** 2, optimizer
    )

    def start():
        params = {"w": jnp.ones(3), "b": jnp.full((), 0.5)}
        state = training.init_train_state(params, optimizer)
        table = scores.ScoreTable.init(16)
        return state, teacher.init(16), table, jax.random.key(0)

    def epoch(run):
        state, teaching, table, key = run
        key, rng = jax.random.split(key)
        teaching, _ = teacher.update(rng, teaching, table.scores)
        ids = teaching.selection.indices[:8]
        state, info = train_step(state, rng, x[np.asarray(ids)], jnp.ones(8))
        return state, teaching, table.update(ids, info.losses), key

    run = epoch(epoch(start()))
    with checkpointer(tmp_path, start()) as writer:
        writer.save(2, run, {"epoch": 2})
    resumed = restored(tmp_path, jax.eval_shape(start)).state
    assert_same(resumed, run)
    expected = epoch(epoch(run))
    with compilations() as compiled:
        assert_same(epoch(epoch(resumed)), expected)
    assert compiled == []  # lost weak types would compile anew


LAST = jax.devices()[4:]


def over_eight():
    keys = jax.random.split(jax.random.key(1), 8)
    return {
        "split": placed(jnp.arange(64.0).reshape(16, 4), mesh(8), "data"),
        "keys": placed(keys, mesh(8), "data"),
        "explicit": placed(
            jnp.arange(8), mesh(4, 2, axis_type=AxisType.Explicit), "model"
        ),
        "weak": placed(jnp.full(8, 0.5), mesh(8), "data"),
        "copies": placed(jnp.arange(3, dtype=jnp.bfloat16), mesh(8)),
        "half": placed(jnp.arange(4), jax.make_mesh((4,), ("x",), devices=LAST), "x"),
        "third": jax.device_put(jnp.arange(5), jax.devices()[3]),
        "rbg": jax.random.key(2, impl="rbg"),
        "loose": jnp.zeros((), jnp.int32),
    }


def test_restores_on_other_devices(tmp_path):
    state = over_eight()
    places = {
        "eight": {name: leaf.sharding for name, leaf in state.items()},
        "one": dict.fromkeys(state, SingleDeviceSharding(jax.devices()[5])),
        "two by four": dict.fromkeys(state, NamedSharding(mesh(2, 4), PartitionSpec()))
        | {
            "split": NamedSharding(mesh(2, 4), PartitionSpec("data", "model")),
            "keys": NamedSharding(mesh(2, 4), PartitionSpec(("model", "data"))),
        },
        "anywhere": dict.fromkeys(state),
        "eight again": {name: leaf.sharding for name, leaf in state.items()},
    }
    saved(tmp_path / "start", state, 1)
    for shardings in places.values():
        target = {
            leaf: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=shardings[leaf])
            for leaf, x in state.items()
        }
        _, found, _ = restored(tmp_path / "start", target)
        assert_same(found, state)
        for leaf, x in found.items():
            assert x.committed == (shardings[leaf] is not None), leaf
            if x.committed:
                assert x.sharding.is_equivalent_to(shardings[leaf], x.ndim), leaf
        # and what was restored there is saved from there, and read by the next
        shutil.rmtree(tmp_path / "start")
        saved(tmp_path / "start", found, 1)


def test_uncommitted_leaves_still_go_with_any_mesh(tmp_path):
    state = {"w": placed(jnp.arange(8.0), mesh(8), "data"), "step": jnp.zeros(())}
    saved(tmp_path, state, 1)
    _, found, _ = restored(tmp_path, state)
    # a step committed to device 0 could not meet parameters on eight
    assert jax.jit(lambda s: s["w"] + s["step"])(found).sharding.num_devices == 8


def test_numpy_comes_back_in_native_byte_order(tmp_path):
    swapped = np.arange(3, dtype=">f4")
    saved(tmp_path, swapped, 1)
    assert_same(restored(tmp_path, swapped).state, np.arange(3, dtype=np.float32))


def reference_checksum(words):
    return sum(w * (2 * i + 1) for i, w in enumerate(words)) % 2**32


def test_the_record_tells_leaves_and_their_checksums(tmp_path):
    words = np.random.default_rng(0).integers(0, 2**32, (8, 6), np.uint32)
    state = {
        "words": words,
        "split": placed(words, mesh(4, 2), "data", "model"),
        "floats": jnp.asarray(words[0].view(np.float32)),
        "doubles": words.view(np.float64),
        "halves": jnp.asarray(words.view(np.float16)),
        "flags": jnp.asarray(words % 2 == 0),
        "nothing": jnp.zeros((0, 3)),
        "number": -7,
    }
    saved(tmp_path, state, 1)
    record = json.loads((tmp_path / "1/record/metadata").read_text())["record"]
    of = {leaf["path"][2:-2]: leaf for leaf in record["leaves"]}
    whole = reference_checksum(words.ravel().tolist())
    assert {leaf: of[leaf]["checksum"] for leaf in of} == {
        "words": whole,
        "split": whole,
        "floats": reference_checksum(words[0].tolist()),
        "doubles": whole,
        "halves": reference_checksum(words.view(np.uint16).ravel().tolist()),
        "flags": reference_checksum((words % 2 == 0).ravel().tolist()),
        "nothing": 0,
        "number": reference_checksum([2**32 - 7, 2**32 - 1]),
    }
    assert (of["doubles"]["shape"], of["doubles"]["dtype"]) == ([8, 3], "float64")
    with jax.enable_x64(True):  # on a device, the same words
        on_device = {"doubles": jnp.asarray(words.view(np.float64))}
        saved(tmp_path / "64", on_device, 1)
        assert_same(restored(tmp_path / "64", on_device).state, on_device)
    record = json.loads((tmp_path / "64/1/record/metadata").read_text())["record"]
    assert record["leaves"][0]["checksum"] == whole


STATE = {"net": Pair(jnp.arange(6.0).reshape(2, 3), jnp.arange(4)), "rng": np.ones(3)}


def test_keeps_the_last_and_the_best(tmp_path):
    qualities = [0.5, 0.9, 0.9, float("nan"), None, 0.1, jnp.float32(0.2)]
    with checkpointer(tmp_path, STATE) as writer:
        for step, quality in enumerate(qualities[:5]):
            writer.save(step, STATE, quality=quality)
        assert writer.steps() == [2, 3, 4]  # 2, not 1: of equals the newer
    with checkpointer(tmp_path, STATE) as writer:  # the best is known after a restart
        writer.restore()
        for step, quality in enumerate(qualities[5:], start=5):
            writer.save(step, STATE, quality=quality)
        assert writer.steps() == [2, 5, 6]
        writer.save(7, STATE, quality=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["6", "7"]
    with checkpointer(tmp_path, STATE, keep_last=1) as writer:
        writer.restore()
        writer.save(8, STATE)
        assert writer.steps() == [7, 8]


def test_saving_a_step_again_is_harmless(tmp_path):
    with checkpointer(tmp_path, STATE) as writer:
        assert writer.restore() is None
        writer.save(1, STATE, {"epoch": 1})
        writer.save(1, STATE, {"epoch": 1})
    with checkpointer(tmp_path, STATE) as writer:
        writer.restore()
        writer.save(1, STATE, {"epoch": 1})
        assert writer.steps() == [1]
        with pytest.raises(ValueError, match=r"step must rise .* got 0 after 1"):
            writer.save(0, STATE)
        assert_same(writer.restore().state, STATE)  # pyright: ignore
        writer.close()
        writer.close()


def test_waiting_long_is_no_reason_for_advice(tmp_path, caplog):
    with checkpointer(tmp_path, STATE) as writer:
        writer.save(1, STATE)
        # as if wait() had waited for so long: orbax tells of more than a second
        writer._manager._wait_for_prev_save_duration = 9.0
        writer.save(2, STATE)
    assert caplog.records == []


def test_going_back_leaves_the_later_checkpoints_behind(tmp_path):
    saved(tmp_path, STATE, 10, 20, 30, keep_last=3)
    with checkpointer(tmp_path, STATE, keep_last=3) as writer:
        with pytest.raises(CheckpointError, match=r"\[10, 20, 30\], and none was rest"):
            writer.save(5, STATE)  # a new run, which would mix with the old
        assert writer.restore(10).step == 10  # pyright: ignore
        assert writer.steps() == [10, 20, 30]  # looking back removes nothing
        writer.save(20, STATE, {"epoch": "anew"})
        assert writer.steps() == [10, 20]
        assert writer.restore().position == {"epoch": "anew"}  # pyright: ignore
        with pytest.raises(CheckpointError, match=r"step 30 .* one of \[10, 20\]"):
            writer.restore(30)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"pool": 999}, "pool was 1000, now it is 999"),
        ({"config": {"seed": 1, "rates": [0.1, 0.01]}}, "config.seed was 0, now it"),
        ({"config": {"seed": 0, "rates": [0.1, 0.2]}}, r"config.rates\[1\] was 0.01"),
        ({"config": {"seed": 0, "rates": [0.1]}}, r"config.rates was \[0.1, 0.01\]"),
        ({"config": {"rates": [0.1, 0.01]}}, "config.seed was 0, now it is not there"),
        ({"model": "vit"}, "model was not there, now it is 'vit'"),
        ({"pool": "1000"}, "pool was 1000, now it is '1000'"),
        ({"config": None, "pool": 1, "a": 1, "b": 1}, "; and 1 more"),
    ],
)
def test_refuses_another_runs(tmp_path, change, told):
    saved(tmp_path, STATE, 1)
    with pytest.raises(CheckpointError, match=f"(?s)step 1 .*{told}.*choose another"):
        restored(tmp_path, STATE, identity=IDENTITY | change)


def test_the_same_identity_however_it_is_written(tmp_path):
    identity = {"nan": float("nan"), "tuple": (1, 2), "rate": np.float64(0.1)}
    saved(tmp_path, STATE, 1, identity=identity)
    identity = {"rate": 0.1, "tuple": [1, 2.0], "nan": float("nan")}
    assert restored(tmp_path, STATE, identity=identity).step == 1


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (
            STATE | {"net": Pair(jnp.zeros((3, 2)), jnp.arange(4))},
            r"state\['net'\].first was saved as float32\[2,3\], .* has float32\[3,2\]",
        ),
        (
            STATE | {"net": Pair(STATE["net"][0], jnp.arange(4.0))},
            r"state\['net'\].second was saved as int32\[4\], .* has float32\[4\]",
        ),
        (STATE | {"ema": 1.0}, r"state\['ema'\] was saved as nothing, .* float\[\]"),
        ({"net": STATE["net"]}, r"state\['rng'\] was saved as float64\[3\], .*nothing"),
        (STATE | {"net": tuple(STATE["net"])}, r"state\['net'\]\[0\] was saved as not"),
        (
            STATE | {"rng": np.ones(3, np.float32)},
            "as float64.* the target has float32",
        ),
        (STATE | {"net": Riap(*STATE["net"][::-1])}, r"in the order .*first.*second"),
        (STATE | {"rng": jax.random.key(0)}, r"the target has key<fry>\[\]"),
    ],
)
def test_refuses_what_does_not_fit(tmp_path, target, told):
    saved(tmp_path, STATE, 1)
    with pytest.raises(CheckpointError, match=told):
        restored(tmp_path, target)
    with (
        checkpointer(tmp_path / "other", target) as writer,
        pytest.raises(ValueError, match=r"but the target has .*: pass the whole state"),
    ):
        writer.save(1, STATE)  # what could not be restored is not saved either


# Random, so that no compression notices a flip before the checksums do.
NOISE = {
    "w": np.random.default_rng(0).integers(0, 2**32, (256, 300), np.uint32),
    "split": placed(np.random.default_rng(1).normal(size=(8, 99)), mesh(8), "data"),
    "zeros": jnp.zeros((99, 9)),
    "step": 3,
}


def flip(file):
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 16
    file.write_bytes(damaged)


def truncate(file):
    os.truncate(file, file.stat().st_size // 2)


# Orbax leaves what it read or wrote beside the failed one to the garbage collector.
unraisable = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@unraisable
def test_any_damage_is_refused_or_has_no_effect(tmp_path):
    whole = tmp_path / "whole"
    saved(whole, NOISE, 1, 2)
    files = [path for path in (whole / "2").rglob("*") if path.is_file()]
    refusals = []
    for number, file in enumerate(files):
        for damage in (flip, truncate, Path.unlink):
            folder = tmp_path / f"{number}{damage.__name__}"
            shutil.copytree(whole, folder)
            damage(folder / file.relative_to(whole))
            with checkpointer(folder, NOISE) as reader:
                try:
                    step, state, position = reader.restore()  # pyright: ignore
                except CheckpointError as error:
                    refusals.append(str(error))
                    step, state, position = reader.restore(step=1)  # pyright: ignore
                    assert (step, position) == (1, {"epoch": 1})
                else:
                    assert (step, position) == (2, {"epoch": 2})
                assert_same(state, NOISE)
            shutil.rmtree(folder)
    assert all("step 2 " in told and "restore(step=1)" in told for told in refusals)
    told = "\n".join(refusals)
    assert "state['w'] has checksum" in told
    assert "record is not what was saved" in told
    assert "record cannot be read" in told
    assert "state cannot be read" in told
    assert len(refusals) > len(files)
    gc.collect()


def test_damage_says_what_is_left(tmp_path):
    saved(tmp_path, STATE, 1, 2)
    (tmp_path / "1").rename(tmp_path / "5")
    with pytest.raises(CheckpointError, match=r"step 5 .* that of step 1\..*of steps "):
        restored(tmp_path, STATE)
    (tmp_path / "5").rename(tmp_path / "0")
    shutil.rmtree(tmp_path / "0/record")
    with checkpointer(tmp_path, STATE, keep_last=1) as reader:
        with pytest.raises(CheckpointError, match="There is no earlier one"):
            reader.restore(0)
        assert reader.restore().step == 2  # pyright: ignore
        reader.save(3, STATE)  # a damaged one is in nobody's way
        assert reader.steps() == [3]


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/here"])
def test_refuses_a_folder_that_cannot_be_written(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match=f"folder .*{name} cannot be written"):
        checkpointer(tmp_path / name, STATE)


def test_refuses_a_disk_too_full(tmp_path, monkeypatch):
    free = 4 * 64_000

    def disk_usage(path):
        return namedtuple("usage", "total used free")(0, 0, free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    state = jnp.zeros(16_000)
    saved(tmp_path, state, 1, 2)
    free -= 1
    with pytest.raises(CheckpointError, match=r"0.3 MB free, but 4 .* need 0.3 MB"):
        checkpointer(tmp_path / "new", state)
    free = 2 * 64_000  # enough for those not yet there
    assert restored(tmp_path, state).step == 2


@contextmanager
def files_limited_to(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@unraisable
@pytest.mark.parametrize("notice", ["wait", "save", "close"])
def test_a_failed_save_is_told_at_the_next_call(tmp_path, notice):
    saved(tmp_path, NOISE, 1, 2)
    writer = checkpointer(tmp_path, NOISE)
    writer.restore()
    failure = r"step 3 could not be written .* steps \[1, 2\] are as they were"
    with files_limited_to(100_000):
        writer.save(3, NOISE)
        with pytest.raises(CheckpointError, match=failure):
            writer.save(4, NOISE) if notice == "save" else getattr(writer, notice)()
    if notice != "close":
        assert writer.steps() == [1, 2]
        writer.save(4, NOISE)  # there is room again
        writer.close()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4"]
    newest = restored(tmp_path, NOISE)
    assert newest.step == (2 if notice == "close" else 4)
    assert_same(newest.state, NOISE)
    gc.collect()


def test_a_folder_that_went_away_is_told(tmp_path):
    with checkpointer(tmp_path / "folder", STATE) as writer:
        writer.save(1, STATE)
        writer.wait()
        shutil.rmtree(tmp_path / "folder")
        (tmp_path / "folder").write_text("in the way")
        with pytest.raises(CheckpointError, match=r"folder .* cannot be written"):
            writer.save(2, STATE)


def test_bad_arguments(tmp_path):
    with pytest.raises(TypeError, match=r"target\['a'\] must be an array or a number"):
        checkpointer(tmp_path, {"a": "text"})
    with pytest.raises(TypeError, match=r"target\[0\] must be an array or a number"):
        checkpointer(tmp_path, [2**63])
    with pytest.raises(TypeError, match=r"identity.a must be JSON data, got array"):
        checkpointer(tmp_path, STATE, identity={"a": np.ones(2)})
    with pytest.raises(ValueError, match="keep_last must be at least 1"):
        checkpointer(tmp_path, STATE, keep_last=0)
    with checkpointer(tmp_path, STATE) as writer:
        with pytest.raises(TypeError, match=r"position\.a\[1\] has the key 3: use str"):
            writer.save(1, STATE, {"a": [0, {3: 4}]})
        with pytest.raises(TypeError, match="quality must be a number"):
            writer.save(1, STATE, quality="good")  # pyright: ignore
        with pytest.raises(ValueError, match="step must be at least 0"):
            writer.save(-1, STATE)
        assert writer.steps() == []


@contextmanager
def running(program, *arguments) -> Iterator[Any]:
    with subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


KILLED = """
import pathlib, sys, numpy as np
from attent_jax.checkpointing import Checkpointer

state = np.random.default_rng(0).integers(0, 2**32, 5_000_000, np.uint32)
checkpointer = Checkpointer(sys.argv[1], state, identity={}, keep_last=1)
for step in range(3):
    checkpointer.restore()
    checkpointer.save(step, state, quality=-step)
    print(checkpointer.steps())
checkpointer.save(3, state)
while not any(pathlib.Path(sys.argv[1]).glob("3*")):
    pass
print("saving", flush=True)
checkpointer.wait()
"""


def test_a_killed_save_leaves_nothing_behind(tmp_path):
    with running(KILLED, tmp_path) as process:
        lines = [process.stdout.readline() for _ in range(4)]
        process.kill()
        errors = process.stderr.read()
    assert (lines[-2:], errors) == (["[0, 2]\n", "saving\n"], "")  # and no log lines
    names = {path.name for path in tmp_path.iterdir()}
    assert {"0", "2"} < names  # the third was under way
    state = np.random.default_rng(0).integers(0, 2**32, 5_000_000, np.uint32)
    with checkpointer(tmp_path, state, identity={}, keep_last=1) as writer:
        assert writer.steps() == [0, 2]
        assert_same(writer.restore().state, state)  # pyright: ignore
        writer.save(4, state)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "4"}


ONE_OF_TWO = """
import sys, jax
folder, port, index = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, index)

import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from attent_jax.checkpointing import Checkpointer

mesh = jax.make_mesh((2,), ("data",))
words = np.arange(12.0, dtype=np.float32).reshape(4, 3)
def over_both(*spec):
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    return jax.make_array_from_callback(words.shape, sharding, lambda i: words[i])

state = {"split": over_both("data"), "copies": over_both(), "own": jax.random.key(3),
         "numpy": words.astype(float), "number": 5}
with Checkpointer(folder, state, identity={"seed": 0}) as checkpointer:
    try:
        checkpointer.save(1, state | {"number": index})
    except ValueError as error:
        print(error)
    checkpointer.save(1, state, {"epoch": 1}, quality=0.5)
    checkpointer.save(2, state, {"epoch": 2}, quality=0.4)
    step, found, position = checkpointer.restore()
    for name in ("split", "copies"):
        assert found[name].sharding == state[name].sharding, name
        for shard in found[name].addressable_shards:
            np.testing.assert_array_equal(shard.data, words[shard.index])
    np.testing.assert_array_equal(found["numpy"], words)
    assert found["own"] == state["own"]
    print(step, position, found["number"])
"""


def test_two_processes_save_what_one_restores(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with (
        running(ONE_OF_TWO, tmp_path, port, 0) as first,
        running(ONE_OF_TWO, tmp_path, port, 1) as second,
    ):
        for process in first, second:
            output, errors = process.communicate(timeout=100)
            assert process.returncode == 0, errors
            assert output.splitlines()[-2:] == [
                "state['number'] differs between processes: make it the same on all, "
                "or one array over the devices of all.",
                "2 {'epoch': 2} 5",
            ]
    words = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    state = {
        "split": placed(words, mesh(2), None, None),
        "copies": words,
        "numpy": words.astype(float),
        "own": jax.random.key(3),
        "number": 5,
    }
    _, found, _ = restored(tmp_path, state, identity={"seed": 0})
    assert_same(found, state)
