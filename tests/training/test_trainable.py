"""Frozen parameters: unchanged, without gradient, optimizer state or residuals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from attent_jax import selectors, teachers
from attent_jax.training import (
    init_train_state,
    make_selective_train_step,
    make_train_step,
    merge_params,
    partition_params,
)
from tests.training.learners import assert_close

NUM_ROWS, WIDTH = 8, 16
OPTIMIZER = optax.adam(0.05)
BATCH = np.random.default_rng(0).normal(size=(NUM_ROWS, WIDTH)).astype(np.float32)
WEIGHTS = jnp.ones(NUM_ROWS)
BODY_FROZEN: dict[str, Any] = {
    "a prefix": {"body": False, "head": True, "steps": False},
    "a mask": {"body": [False] * 4, "head": {"w": True, "b": True}, "steps": False},
    "a path": lambda path: path.startswith("head/"),
}
every_form = pytest.mark.parametrize(
    "trainable", BODY_FROZEN.values(), ids=BODY_FROZEN.keys()
)


def make_params():
    draw = np.random.default_rng(1)
    layers = draw.normal(size=(4, WIDTH, WIDTH)).astype(np.float32) / 4
    return {
        "body": [jnp.asarray(layer) for layer in layers],
        "head": {"w": jnp.ones((WIDTH, 1)) / 4, "b": jnp.zeros(1)},
        "steps": jnp.arange(3),  # integers may be frozen
    }


def loss_fn(params, rng, batch):
    hidden = batch
    for layer in params["body"]:
        hidden = jnp.tanh(hidden @ layer)
    outputs = hidden @ params["head"]["w"] + params["head"]["b"][None]
    return (outputs[:, 0] - params["steps"][1].astype(jnp.float32)) ** 2


def make_step(kind, trainable, num_selected=4):
    if kind == "full":
        return make_train_step(loss_fn, OPTIMIZER, trainable=trainable)
    return make_selective_train_step(
        loss_fn,
        OPTIMIZER,
        selectors.top_k(),
        num_selected=num_selected,
        trainable=trainable,
        reuse_forward=kind == "re-use",
    )


every_step = pytest.mark.parametrize("kind", ["full", "two passes", "re-use"])


@every_form
@every_step
def test_only_trained_leaves_are_taught(kind, trainable):
    """Against a step on the head alone, the body closed over."""
    params = make_params()
    state = init_train_state(params, OPTIMIZER, trainable=trainable)
    step = make_step(kind, trainable)
    frozen_body = {"body": params["body"], "steps": params["steps"]}
    head = init_train_state(params["head"], OPTIMIZER)
    head_step = make_train_step(
        lambda head, rng, batch: loss_fn({**frozen_body, "head": head}, rng, batch),
        OPTIMIZER,
    )
    for _ in range(3):
        state, info = step(state, None, BATCH, WEIGHTS)
        taught = np.zeros(NUM_ROWS, np.float32)
        taught[getattr(info, "indices", np.arange(NUM_ROWS))] = 1
        head, expected = head_step(head, None, BATCH, jnp.asarray(taught))
        assert_close(info.grad_norm, expected.grad_norm, 1e-5)
    assert_close(state.params["head"], head.params, 1e-5)
    assert np.abs(state.params["head"]["w"] - params["head"]["w"]).max() > 0.01
    jax.tree.map(
        np.testing.assert_array_equal,
        (state.params["body"], state.params["steps"]),
        (params["body"], params["steps"]),
    )


@every_form
def test_frozen_leaves_have_no_optimizer_state(trainable):
    state = init_train_state(make_params(), OPTIMIZER, trainable=trainable)
    adam: Any = state.opt_state
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(adam))
    assert sizes == sorted([1, 1, WIDTH, 1, WIDTH])  # count, and mu and nu of the head


@every_step
def test_frozen_leaves_have_no_gradient_and_no_residuals(kind):
    """FLOPs and memory are a forward pass's, and a little."""

    def compile_with(trainable):
        state = jax.eval_shape(
            lambda: init_train_state(make_params(), OPTIMIZER, trainable=trainable)
        )
        step: Any = make_step(kind, trainable, num_selected=512)
        batch = jax.ShapeDtypeStruct((1024, WIDTH), jnp.float32)
        weights = jax.ShapeDtypeStruct((1024,), jnp.float32)
        return step.lower(state, None, batch, weights).compile()

    all_but_steps = compile_with(lambda path: path != "steps")
    head = compile_with(BODY_FROZEN["a path"])
    flops = [(one.cost_analysis() or {})["flops"] for one in (head, all_but_steps)]
    if kind == "full":  # 4 layers forward of 4 forward and 4 + 3 backward
        assert flops[0] < 0.45 * flops[1]
    else:
        assert flops[0] < 0.85 * flops[1]
    # The residuals of each layer are 1024 · WIDTH floats.
    kept = [one.memory_analysis().temp_size_in_bytes for one in (head, all_but_steps)]
    if kind != "two passes":
        assert kept[1] - kept[0] > 2 * 1024 * WIDTH * 4


def test_a_curriculum_teaches_only_the_trained_leaves():
    trainable = BODY_FROZEN["a path"]
    teacher = teachers.attent(selectors.gumbel_top_k(), 0.5, num_warmup_epochs=1)
    step = make_train_step(loss_fn, OPTIMIZER, trainable=trainable)
    params = make_params()
    state = init_train_state(params, OPTIMIZER, trainable=trainable)
    teaching = teacher.init(NUM_ROWS)
    for epoch in range(3):
        scores = loss_fn(state.params, None, BATCH)
        teaching, _ = teacher.update(jax.random.key(epoch), teaching, scores)
        rows = teaching.selection.indices
        state, _ = step(state, None, BATCH[rows], teaching.selection.weights)
    np.testing.assert_array_equal(state.params["body"][0], params["body"][0])
    assert np.abs(state.params["head"]["w"] - params["head"]["w"]).max() > 0.01


def test_states_and_steps_with_different_trainable_are_refused():
    params = {name: leaf for name, leaf in make_params().items() if name != "steps"}
    state = init_train_state(params, OPTIMIZER)
    step = make_train_step(
        lambda params, rng, batch: batch[:, 0] * params["head"]["b"],
        OPTIMIZER,
        trainable=BODY_FROZEN["a path"],
    )
    with pytest.raises(ValueError, match="same optimizer and the same trainable="):
        step(state, None, BATCH, WEIGHTS)


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (np.zeros(3, jax.dtypes.float0), "float0.*freeze it with trainable="),
        (jnp.arange(3), "'n' is int32, which has no gradient: freeze it"),
        (jnp.zeros(3, bool), "'n' is bool, which has no gradient: freeze it"),
        (jax.random.key(0), "'n' is key<fry>, which has no gradient: freeze it"),
        (jnp.tanh, "'n' is of type .*, not an array: .*equinox.partition"),
    ],
)
def test_leaves_without_a_gradient_are_refused_with_the_remedy(leaf, message):
    with pytest.raises(TypeError, match=message):
        init_train_state({"w": jnp.ones(2), "n": leaf}, OPTIMIZER)


@pytest.mark.parametrize(
    ("trainable", "error", "message"),
    [
        (False, ValueError, "leaves no parameter to train; the paths are body/0"),
        (lambda path: path == "tail", ValueError, r"the paths are .*, steps: mark"),
        ({"body": True}, ValueError, "does not fit params"),
        ({"body": 1, "head": True, "steps": False}, TypeError, "gives 1 for the leaf"),
    ],
)
def test_what_is_no_choice_of_leaves_is_refused(trainable, error, message):
    with pytest.raises(error, match=message):
        partition_params(make_params(), trainable)


@every_form
def test_parts_merge_to_the_whole(trainable):
    params = make_params()
    trained, frozen = partition_params(params, trainable)
    assert len(jax.tree.leaves(trained)) == 2
    assert len(jax.tree.leaves(frozen)) == 5
    merged = merge_params(trained, frozen)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    assert all(map(lambda a, b: a is b, *map(jax.tree.leaves, (merged, params))))
