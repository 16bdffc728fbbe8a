"""What a run sees: it goes on as if it had not stopped, and nothing is mixed up."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from attent_jax import scores, selectors, teachers, training
from attent_jax.checkpointing import Checkpointer, CheckpointError
from tests.checkpointing.saved_runs import (
    STATE,
    assert_same,
    checkpointer,
    restored,
    saved,
)
from tests.compilations import compilations


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


def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    optimizer = optax.adam(0.1)
    teacher = teachers.attent(selectors.gumbel_top_k(0.5), ratio=0.5)
    train_step = training.make_train_step(
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
    assert compiled == []  # lost weak types would compile again


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
        # as if wait() had waited for so long: orbax reports more than a second
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
        writer.save(20, STATE, {"epoch": "again"})
        assert writer.steps() == [10, 20]
        assert writer.restore().position == {"epoch": "again"}  # pyright: ignore
        with pytest.raises(CheckpointError, match=r"step 30 .* one of \[10, 20\]"):
            writer.restore(30)


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


def test_a_step_saved_anew_has_no_longer_its_old_quality(tmp_path):
    with checkpointer(tmp_path, STATE) as writer:
        writer.save(1, STATE)
        writer.save(2, STATE, quality=0.9)
        writer.restore(1)
        for step, quality in [(2, None), (3, 0.5), (4, None), (5, None)]:
            writer.save(step, STATE, quality=quality)
        assert writer.steps() == [3, 4, 5]


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


@pytest.mark.parametrize("act", ["save", "restore"])
def test_a_closed_checkpointer_refuses(tmp_path, act):
    with checkpointer(tmp_path, STATE) as closed:
        closed.save(1, STATE)
    with pytest.raises(ValueError, match="is closed: save and restore inside"):
        closed.save(2, STATE) if act == "save" else closed.restore()
    closed.close()  # does nothing
    assert restored(tmp_path, STATE).step == 1


@pytest.mark.parametrize("folder", [{"w": 1.0}, 3, None])
def test_a_folder_is_a_path(folder):
    with pytest.raises(TypeError, match=r"folder must be a path, got .*target, iden"):
        Checkpointer(folder, STATE, identity={})
