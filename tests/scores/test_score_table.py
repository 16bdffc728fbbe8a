"""The table of free scores."""

import jax
import jax.numpy as jnp
import numpy as np

from attent_jax.scores import ScoreTable


def test_old_average_counts_three_tenths():
    table = ScoreTable.init(3).update(jnp.array([0, 1]), jnp.array([10.0, 2.0]))
    table = table.update(jnp.array([1, 0]), jnp.array([4.0, 0.0]))
    # swapped shares: [7, 2.6]
    np.testing.assert_allclose(table.losses[:2], [3.0, 3.4], rtol=1e-6)
    half = ScoreTable.init(1, decay=0.5)
    for loss in (3.0, 1.0):
        half = half.update(jnp.array([0]), jnp.array([loss]))
    np.testing.assert_allclose(half.losses, [2.0], rtol=1e-6)


def test_the_unseen_score_as_the_highest_seen():
    empty = ScoreTable.init(4)
    np.testing.assert_array_equal(empty.scores, np.zeros(4))
    table = empty.update(jnp.array([1, 3]), jnp.array([2.0, 5.0]))
    np.testing.assert_array_equal(table.scores, [5.0, 2.0, 5.0, 5.0])


def test_the_unseen_score_as_the_highest_seen_also_below_zero():
    # log-densities: a floor at 0 would put the unseen before everything else
    table = ScoreTable.init(3).update(jnp.array([0, 1]), jnp.array([-5.0, -1.0]))
    np.testing.assert_array_equal(table.scores, [-5.0, -1.0, -1.0])


def test_padding_is_dropped_even_with_a_real_id():
    # the last batch's padding repeats an example with a loss of its own
    table = ScoreTable.init(4).update(
        jnp.array([2, 0, 0, 0]),
        jnp.array([1.0, 3.0, 99.0, jnp.nan]),
        weights=jnp.array([1.0, 0.5, 0.0, 0.0]),
    )
    np.testing.assert_array_equal(table.losses, [3.0, np.inf, 1.0, np.inf])
    alone = table.update(jnp.array([1]), jnp.array([7.0]), weights=jnp.array([0.0]))
    np.testing.assert_array_equal(alone.losses, table.losses)


def test_nan_leaves_the_average_and_infinity_is_not_averaged():
    table = ScoreTable.init(3).update(jnp.array([0, 1]), jnp.array([4.0, jnp.nan]))
    np.testing.assert_array_equal(table.losses, [4.0, np.inf, np.inf])
    table = table.update(jnp.array([0]), jnp.array([jnp.nan]))
    np.testing.assert_array_equal(table.losses, [4.0, np.inf, np.inf])
    table = table.update(jnp.array([0]), jnp.array([jnp.inf]))
    table = table.update(jnp.array([0]), jnp.array([2.0]))
    np.testing.assert_array_equal(table.losses, [2.0, np.inf, np.inf])


def test_scan_and_jit_equal_the_loop_and_keep_the_type():
    ids = jnp.array([[0, 1], [2, 1], [0, 3]])
    losses = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    weights = jnp.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    table = ScoreTable.init(4)
    scanned, _ = jax.lax.scan(
        lambda table, row: (table.update(*row), None), table, (ids, losses, weights)
    )
    for row in zip(ids, losses, weights, strict=True):
        new = jax.jit(ScoreTable.update)(table, *row)
        assert jax.typeof(new.losses) == jax.typeof(table.losses)
        np.testing.assert_array_equal(new.losses, table.update(*row).losses)
        table = new
    np.testing.assert_allclose(scanned.losses, [3.8, 3.4, 3.0, np.inf], rtol=1e-6)
    np.testing.assert_allclose(scanned.losses, table.losses, rtol=1e-6)


def test_half_precision_losses_do_not_change_the_table():
    table = ScoreTable.init(2).update(jnp.array([0]), jnp.array([1.5], jnp.bfloat16))
    assert table.losses.dtype == jnp.float32
    np.testing.assert_array_equal(table.scores, [1.5, 1.5])


def test_decay_belongs_to_the_table():
    table = ScoreTable.init(2, decay=0.9)
    for loss in (1.0, 2.0):
        table = jax.jit(ScoreTable.update)(table, jnp.array([0]), jnp.array([loss]))
    np.testing.assert_allclose(table.losses[0], 1.1, rtol=1e-6)
    latest = ScoreTable.init(1, decay=0).update([0], [5.0]).update([0], [3.0])
    np.testing.assert_array_equal(latest.scores, [3.0])


def test_ids_of_every_integer_type_are_taken():
    for dtype in (np.uint8, np.int8, np.int16, np.uint32, np.int64):
        table = ScoreTable.init(300).update(np.array([2, 7], dtype), np.ones(2))
        assert np.flatnonzero(np.isfinite(table.losses)).tolist() == [2, 7]


def test_traced_ids_outside_the_pool_are_dropped_and_do_not_wrap():
    ids, losses = jnp.array([-1, 4, 1, -5, 2**31 - 1]), jnp.ones(5)
    table = jax.jit(ScoreTable.update)(ScoreTable.init(4), ids, losses)
    np.testing.assert_array_equal(table.losses, [np.inf, 1, np.inf, np.inf])
    with jax.enable_x64(True):  # as 32 bits, 1 and 2
        table = ScoreTable.init(4)
        table = jax.jit(ScoreTable.update)(
            table, jnp.array([2**32 + 1, 2**64 - 2**32 + 2], jnp.uint64), jnp.ones(2)
        )
        np.testing.assert_array_equal(table.losses, np.full(4, np.inf))


def test_of_duplicate_ids_one_loss_is_recorded():
    table = ScoreTable.init(2).update(jnp.array([1, 1]), jnp.array([3.0, 5.0]))
    assert float(table.losses[1]) in (3.0, 5.0)  # not their sum or mean


def test_a_donated_table_is_updated_in_place():
    table = ScoreTable.init(1000)
    update = jax.jit(ScoreTable.update, donate_argnums=0)
    table = update(table, jnp.array([0]), jnp.array([1.0]))
    buffer = table.losses.unsafe_buffer_pointer()
    table = update(table, jnp.array([1]), jnp.array([2.0]))
    assert table.losses.unsafe_buffer_pointer() == buffer
    np.testing.assert_array_equal(table.losses[:3], [1, 2, np.inf])


def test_jax_debug_nans_and_check_tracer_leaks_report_nothing():
    with jax.debug_nans(True), jax.checking_leaks():
        table = ScoreTable.init(3)
        assert np.isfinite(table.scores).all()
        losses = np.array([np.nan, 1.0], np.float32)
        table = jax.jit(ScoreTable.update)(table, np.array([0, 1]), losses)
        table = table.update([0, 1], [np.inf, 2.0])
        np.testing.assert_allclose(table.scores, [1.7, 1.7, 1.7], rtol=1e-6)
