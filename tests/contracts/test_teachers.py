"""What holds for every teacher, over a whole curriculum."""

import inspect
import pickle
import pydoc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax import teachers
from attent_jax.schedules import linear
from attent_jax.scores import ScoreTable
from attent_jax.selectors import gumbel_top_k
from attent_jax.typing import Teacher, TeacherInfo, TeacherState
from tests.compilations import assert_same_program, compilations
from tests.families import POOL_SIZE, TEACHERS, members

NUM_EPOCHS = 12
RNGS = jax.random.split(jax.random.key(3), NUM_EPOCHS)
SCORES = jax.random.uniform(jax.random.key(4), (NUM_EPOCHS, POOL_SIZE))

every_teacher = pytest.mark.parametrize("teacher", members(TEACHERS))


def curriculum(teacher: Teacher, rngs=RNGS, scores: Any = SCORES) -> list[TeacherState]:
    states = [teacher.init(POOL_SIZE)]
    for rng, row in zip(rngs, scores, strict=True):
        states.append(teacher.update(rng, states[-1], row)[0])
    return states


def assert_identical(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_the_family_is_complete():
    assert {name.split()[0] for name in TEACHERS} == {
        name for name in teachers.__all__ if name.islower() and name != "plan"
    }


@every_teacher
def test_parameter_names_are_the_vocabulary(teacher):
    def names(function):
        return list(inspect.signature(function).parameters)

    assert names(teacher.init) == ["num_examples"]
    assert names(teacher.needs_scores) == ["state"]
    assert names(teacher.update) == ["rng", "state", "scores"]


@every_teacher
def test_update_keeps_the_structure_and_types_of_the_state(teacher):
    state = teacher.init(POOL_SIZE)
    new_state, info = teacher.update(RNGS[0], state, SCORES[0])
    assert isinstance(info, TeacherInfo)
    assert jax.tree.structure(state) == jax.tree.structure(new_state)
    # a weak type that hardens compiles everything a second time
    types = jax.tree.map(jax.typeof, state)
    assert jax.tree.map(jax.typeof, new_state) == types
    abstract = jax.eval_shape(lambda: teacher.init(POOL_SIZE))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), abstract) == (
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    )


@every_teacher
def test_scan_equals_the_loop_and_while_loop_takes_the_state(teacher):
    def body(state, xs):
        state, _ = teacher.update(xs[0], state, xs[1])
        return state, state

    state = teacher.init(POOL_SIZE)
    _, states = jax.lax.scan(body, state, (RNGS, SCORES))
    for epoch, expected in enumerate(curriculum(teacher)[1:]):
        assert_identical(
            jax.tree.map(lambda leaf: leaf[epoch], states),  # noqa: B023
            expected,
        )
    jax.eval_shape(  # a carry whose type changed would raise
        lambda: jax.lax.while_loop(
            lambda state: state.epoch < NUM_EPOCHS,
            lambda state: teacher.update(RNGS[0], state, SCORES[0])[0],
            state,
        )
    )


@every_teacher
def test_vmap_equals_the_loop(teacher):
    # three trainings at once, each with its own keys and scores
    rngs = jax.random.split(jax.random.key(5), (3, NUM_EPOCHS))
    scores = jax.random.uniform(jax.random.key(6), (3, NUM_EPOCHS, POOL_SIZE))
    update = jax.jit(jax.vmap(teacher.update))
    many = jax.vmap(lambda _: teacher.init(POOL_SIZE))(jnp.arange(3))
    for epoch in range(NUM_EPOCHS):
        many, _ = update(rngs[:, epoch], many, scores[:, epoch])
    for i in range(3):
        one = jax.tree.map(lambda leaf: leaf[i], many)  # noqa: B023
        assert_identical(one, curriculum(teacher, rngs[i], scores[i])[-1])


@every_teacher
def test_scores_are_read_exactly_when_needed(teacher):
    for state, rng, scores in zip(curriculum(teacher), RNGS, SCORES, strict=False):
        new_state, info = teacher.update(rng, state, scores)
        needed = bool(teacher.needs_scores(state))
        assert bool(info.is_reselected) == needed
        if not needed:  # e.g. last interval's scores, or zeros
            # not all NaN, which a uniform draw would take as it takes all finite
            unread = jnp.full(POOL_SIZE, jnp.nan).at[3].set(0.0)
            blind, _ = teacher.update(rng, state, unread)
            assert_identical(blind, new_state)


@every_teacher
def test_each_epoch_teaches_distinct_examples(teacher):
    states = curriculum(teacher)
    for state in states:
        indices, weights, num_selected = state.selection
        assert sorted(indices.tolist()) == list(range(POOL_SIZE))
        np.testing.assert_array_equal(weights, np.arange(POOL_SIZE) < num_selected)
    assert int(states[-1].epoch) == NUM_EPOCHS


@every_teacher
def test_a_second_epoch_compiles_nothing(teacher):
    states = curriculum(teacher, RNGS[:1], SCORES[:1])
    bool(teacher.needs_scores(states[-1]))
    rows = list(zip(RNGS, SCORES, strict=True))
    with compilations() as compiled:
        state = states[-1]
        for rng, scores in rows:
            bool(teacher.needs_scores(state))
            state, _ = teacher.update(rng, state, scores)
    assert compiled == []


def test_a_curriculum_from_a_fifth_to_the_whole_pool_is_one_trace():
    num_traces = 0
    soft = gumbel_top_k()

    def select(rng, scores, num_selected):
        nonlocal num_traces
        num_traces += 1
        return soft(rng, scores, num_selected)

    teacher = teachers.attent(select, linear(0.2, 1.0, 30), linear(1, 5, 30))
    state, counts = teacher.init(100), []
    for epoch in range(31):
        state, _ = teacher.update(jax.random.key(epoch), state, jnp.arange(100.0))
        counts.append(int(state.selection.num_selected))
    assert len(set(counts)) > 8  # 30 would be traced if lengths followed the ratio
    assert num_traces == 1


@every_teacher
def test_64_bit_mode_keeps_the_types_of_the_state_too(teacher):
    with jax.enable_x64(True):
        state = teacher.init(POOL_SIZE)
        types = jax.tree.map(jax.typeof, state)
        for dtype in (np.float32, np.float64):
            row = np.asarray(SCORES[0], dtype)
            abstract, _ = jax.eval_shape(teacher.update, RNGS[0], state, row)
            assert jax.tree.map(jax.typeof, abstract) == types


@every_teacher
def test_jax_debug_nans_and_check_tracer_leaks_report_nothing(teacher):
    scores = np.array(SCORES)
    scores[:, 2] = np.nan  # an example without a score
    with jax.debug_nans(True), jax.checking_leaks():
        states = curriculum(teacher, scores=scores)
        teacher.needs_scores(states[-1])
    assert int(states[-1].epoch) == NUM_EPOCHS


@every_teacher
def test_numpy_arrays_and_lists_of_scores_give_the_same_curriculum(teacher):
    rngs, scores = RNGS[:3], SCORES[:3]
    expected = curriculum(teacher, rngs, scores)[-1]
    for row in (np.asarray(scores, np.float64), scores.tolist()):
        assert_identical(curriculum(teacher, rngs, row)[-1], expected)


@every_teacher
def test_a_score_table_in_place_of_its_scores_is_refused(teacher):
    table: Any = ScoreTable.init(POOL_SIZE)
    with pytest.raises(TypeError, match="scores is a ScoreTable: pass"):
        teacher.update(RNGS[0], teacher.init(POOL_SIZE), table)


@every_teacher
def test_pickling_keeps_the_curriculum(teacher):
    again = pickle.loads(pickle.dumps(teacher))
    assert repr(again) == repr(teacher)
    state = teacher.init(POOL_SIZE)
    assert_identical(again.init(POOL_SIZE), state)
    assert_same_program(again.needs_scores, teacher.needs_scores, state)
    assert_same_program(again.update, teacher.update, RNGS[0], state, SCORES[0])


def test_repr_is_the_call():
    for name, expected in {
        "attent without warm-up": "attent(top_k(), 0.3, 2, 0)",
        "one_shot": "one_shot(top_k(), 0.7)",
        "attent with a score transform": "attent(gumbel_top_k(0.5), 0.5, 2, "
        "score_transform=chain(ema(0.5), standardize()))",
    }.items():
        assert repr(TEACHERS[name]) == expected


@every_teacher
def test_help_says_what_to_pass(teacher):
    for function in teacher:
        assert "->" in pydoc.render_doc(function)
    assert "call it before each epoch" in pydoc.render_doc(teacher.update)
