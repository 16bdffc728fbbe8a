"""Each error names the argument and its value, and says what to do instead."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from attent_jax import (
    data,
    distributed,
    models,
    schedules,
    scores,
    selectors,
    teachers,
    training,
)

KEY = jax.random.key(0)
POOL = jnp.arange(4.0)
TOP_K, UNIFORM = selectors.top_k(), selectors.uniform()
SOFT, MIXED = selectors.gumbel_top_k(), selectors.mix_uniform(TOP_K, 0.5)
ATTENT = teachers.attent
TEACHER = ATTENT(TOP_K, 0.5)
TABLE = scores.ScoreTable.init(4)
PLAN = teachers.plan(TEACHER, num_examples=4, num_epochs=2, batch_size=2)
PLAN_OF_4: dict[str, Any] = {"num_examples": 4, "num_epochs": 2, "batch_size": 2}
MESH = distributed.make_mesh()
VIT = models.VisionTransformer(5, 4, 8, 1, 2)
ARRAYS = data.ArrayPool(np.arange(4.0))
BATCH, WEIGHTS = {"x": jnp.ones((4, 2)), "y": jnp.ones(4)}, jnp.ones(4)


def per_example(params, rng, batch):
    return batch["y"] * params


def per_position(params, rng, batch):
    return batch["x"] * params


def reduced(params, rng, batch):
    return jnp.mean(batch["y"]) * params


def unchecked(function):
    """Without the tests' own check of array annotations, as a user has it."""
    return inspect.unwrap(function)


def step(loss_fn, rng=KEY, batch: Any = BATCH, weights: Any = WEIGHTS):
    optimizer = optax.sgd(0.1)
    state = training.init_train_state(jnp.array(1.0), optimizer)
    return training.make_train_step(loss_fn, optimizer)(state, rng, batch, weights)


SGD, ADAM = optax.sgd(0.1), optax.adam(0.1)
SGD_STATE = training.init_train_state(jnp.array(1.0), SGD)
MAKE_STEPS = {
    "step": training.make_train_step,
    "selective step": functools.partial(
        training.make_selective_train_step, select_fn=TOP_K, num_selected=2
    ),
}


class Unhashable:
    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __call__(self, params, rng, batch):
        return batch


def whole_score(score_fn: Any, params: Any = None):
    return training.score_pool(score_fn, params, ARRAYS)


def with_output(params, rng, batch) -> Any:
    return batch * params, batch


def score(score_fn, batch: Any = BATCH):
    return score_fn(jnp.array(1.0), None, batch)


def outputs(params, rng, batch):
    return batch["x"] * params


def final(**counts):
    return ATTENT(TOP_K, 0.5, **counts)


# What is done, and what the error says: the argument, the value, the remedy.
CASES = {
    # selectors
    "no scores": (lambda: TOP_K(KEY, jnp.ones(0), 1), "scores is empty.*at least one"),
    "scores per position": (
        lambda: TOP_K(KEY, jnp.ones((4, 2)), 1),
        r"scores must have shape \[pool\], got shape \(4, 2\): pass one",
    ),
    "integer scores": (
        lambda: TOP_K(KEY, jnp.arange(4), 1),
        r"scores must be floating point, got int32.*jnp.asarray",
    ),
    "none selected": (lambda: TOP_K(KEY, POOL, 0), "num_selected.*1, got 0: pass 1 or"),
    "too many selected": (
        lambda: TOP_K(KEY, POOL, 5),
        "num_selected must be at most the pool's 4 examples, got 5: lower it",
    ),
    "a pool beyond 32 bits": (
        lambda: jax.eval_shape(TOP_K, KEY, jax.ShapeDtypeStruct((2**31,), "f4"), 1),
        "scores has 2147483648 examples, but.*at most 2147483647.*parts of the pool",
    ),
    "a table for its scores": (
        lambda: TOP_K(KEY, scores.ScoreTable.init(4), 1),  # pyright: ignore[reportArgumentType]
        r"scores is a ScoreTable: pass.*table\.scores",
    ),
    "no scores at all": (
        lambda: TOP_K(KEY, None, 1),  # pyright: ignore[reportArgumentType]
        r"scores must be an array of shape \[pool\], got NoneType: pass",
    ),
    "half an example": (
        lambda: TOP_K(KEY, POOL, 1.5),  # pyright: ignore[reportArgumentType]
        "num_selected must be an integer, got 1.5 of type float: pass",
    ),
    "several counts": (
        lambda: jax.jit(TOP_K)(KEY, POOL, jnp.array([1, 2])),
        r"num_selected must be one integer, got shape \(2,\): pass",
    ),
    "a sharding for a mesh": (
        lambda: selectors.top_k(mesh=jax.devices()),  # pyright: ignore[reportArgumentType]
        r"mesh must be a jax.sharding.Mesh, got list: make one",
    ),
    "a schedule for a temperature": (
        lambda: selectors.gumbel_top_k(schedules.constant(1.0)),  # pyright: ignore[reportArgumentType]
        "temperature must be a number, got .*takes no schedule.*pass a Python number",
    ),
    "several temperatures": (
        lambda: selectors.gumbel_top_k([1.0, 2.0]),  # pyright: ignore[reportArgumentType]
        r"temperature must be a number, got \[1.0, 2.0\] of type list: pass",
    ),
    "a selector for a share": (
        lambda: selectors.mix_uniform(TOP_K, UNIFORM),  # pyright: ignore[reportArgumentType]
        r"share must be a number, got uniform\(\): it takes no schedule",
    ),
    "a mixture without parentheses": (
        lambda: selectors.mix_uniform(selectors.top_k, 0.5),  # pyright: ignore[reportArgumentType]
        r"select_fn must be a selector, got top_k itself: pass.*parentheses",
    ),
    "a mixture of a word": (
        lambda: selectors.mix_uniform("top_k", 0.5),  # pyright: ignore[reportArgumentType]
        "select_fn must be a selector, got 'top_k': pass",
    ),
    "negative temperature": (
        lambda: selectors.gumbel_top_k(-1.0),
        r"temperature must lie in \[0, inf\], got -1: choose",
    ),
    "temperature NaN": (lambda: selectors.gumbel_top_k(np.nan), "temperature.*got nan"),
    "share above 1": (
        lambda: selectors.mix_uniform(TOP_K, 1.5),
        r"share must lie in \[0, 1\], got 1.5: choose",
    ),
    "power above 1": (
        lambda: selectors.balanced(np.arange(4), 2.0),
        r"power must lie in \[0, 1\], got 2: choose",
    ),
    "labels of another pool": (
        lambda: selectors.balanced(np.arange(5))(KEY, POOL, 1),
        "scores has 4 examples but labels has 5: both must",
    ),
    "negative labels": (
        lambda: selectors.balanced(np.arange(4) - 1),
        "labels must be non-empty and non-negative: number",
    ),
    "fractional labels": (
        lambda: unchecked(selectors.balanced)(np.ones(4)),
        r"labels must be integers of shape \[pool\], got float64.*pass",
    ),
    # schedules and plans
    "a constant word": (
        lambda: schedules.constant("0.5"),  # pyright: ignore[reportArgumentType]
        "value must be a number, got '0.5' of type str: pass a Python number",
    ),
    "no steps": (lambda: schedules.linear(0, 1, 0), "num_steps.*1, got 0: pass 1 or"),
    "half a step": (
        lambda: schedules.cosine(0, 1, 2.5),  # pyright: ignore[reportArgumentType]
        "num_steps must be an integer, got 2.5 of type float: pass a Python int",
    ),
    "a missing value": (
        lambda: schedules.step([1.0], [3]),
        "values must have one entry more than boundaries, got 1 and 1: give",
    ),
    "boundaries out of order": (
        lambda: schedules.step([1.0, 2.0, 3.0], [5, 3]),
        r"boundaries must increase, got \[5, 3\]: sort",
    ),
    "a true value": (
        lambda: schedules.linear(True, 1.0, 3),
        "initial.*True of type bo",
    ),
    "true steps": (lambda: schedules.linear(0.0, 1.0, True), "num_steps.*True of type"),
    "no epochs": (
        lambda: teachers.plan(TEACHER, **{**PLAN_OF_4, "num_epochs": 0}),
        "num_epochs must be at least 1, got 0: pass 1 or more",
    ),
    "a teacher not called": (
        lambda: teachers.plan(teachers.full, **PLAN_OF_4),  # pyright: ignore[reportArgumentType]
        r"teacher must be a Teacher, got full itself: pass e.g. .*full\(\)",
    ),
    "a plan for too many examples": (
        lambda: teachers.plan(TEACHER, **{**PLAN_OF_4, "num_examples": 2**31}),
        "num_examples must be at most 2147483647, got 2147483648: pass 2147483647 or",
    ),
    "a plan for too large batches": (
        lambda: teachers.plan(TEACHER, **{**PLAN_OF_4, "batch_size": 10**12}),
        "batch_size must be at most 2147483647, got 1000000000000: pass",
    ),
    # teachers
    "a selector's factory": (
        lambda: ATTENT(selectors.top_k, 0.5),  # pyright: ignore[reportArgumentType]
        r"select_fn must be a selector, got top_k itself: pass e.g. .*top_k\(\)",
    ),
    "another selector's factory": (
        lambda: teachers.one_shot(selectors.balanced, 0.5),  # pyright: ignore[reportArgumentType]
        "select_fn must be a selector, got balanced itself: pass",
    ),
    "a schedule's factory as ratio": (
        lambda: ATTENT(TOP_K, schedules.linear),  # pyright: ignore[reportArgumentType]
        "ratio must be a number or a schedule.*got linear itself: pass",
    ),
    "a constant's factory as interval": (
        lambda: ATTENT(TOP_K, 0.5, schedules.constant),
        "interval must be a schedule that jax can trace, got constant itself: pass",
    ),
    "a schedule with a Python if": (
        lambda: ATTENT(TOP_K, lambda epoch: 0.5 if epoch < 3 else 0.7),
        "ratio must be a schedule that jax can trace.*jnp.where",
    ),
    "a schedule of vectors": (
        lambda: ATTENT(TOP_K, lambda epoch: jnp.ones(2)),
        "ratio must be a number or a schedule",
    ),
    "a transform's factory": (
        lambda: ATTENT(TOP_K, 0.5, score_transform=scores.standardize),  # pyright: ignore[reportArgumentType]
        "score_transform must be a ScoreTransform, got standardize itself: pass",
    ),
    "a chain of factories": (
        lambda: scores.chain(scores.ema(0.5), scores.standardize),  # pyright: ignore[reportArgumentType]
        r"transforms\[1\] must be a ScoreTransform, got standardize itself: pass",
    ),
    "a teacher of too large a pool": (
        lambda: TEACHER.init(2**31),
        "num_examples must be at most 2147483647, got 2147483648: pass",
    ),
    "a dict of scores": (
        lambda: TEACHER.update(KEY, TEACHER.init(4), {"loss": POOL}),  # pyright: ignore[reportArgumentType]
        r"scores must be an array of shape \[pool\], got dict: pass one",
    ),
    "selector not called": (
        lambda: ATTENT("top_k", 0.5),  # pyright: ignore[reportArgumentType]
        r"select_fn must be a selector, got 'top_k': pass e.g. .*top_k\(\)\.$",
    ),
    "ratio 0": (lambda: ATTENT(TOP_K, 0.0), r"ratio.*\(0, 1\], got 0: choose"),
    "ratio above 1": (lambda: ATTENT(TOP_K, 1.1), r"ratio.*\(0, 1\], got 1.1: choose"),
    "ratio NaN": (lambda: ATTENT(TOP_K, np.nan), "ratio.*got nan: choose"),
    "ratio a word": (
        lambda: ATTENT(TOP_K, "half"),  # pyright: ignore[reportArgumentType]
        "ratio must be a number, got 'half' of type str: pass",
    ),
    "ratio true": (lambda: ATTENT(TOP_K, True), "ratio.*got True of type bool: pass"),
    "interval 0": (lambda: ATTENT(TOP_K, 0.5, 0), "interval.*1, got 0: pass 1 or more"),
    "interval 1.5": (
        lambda: ATTENT(TOP_K, 0.5, 1.5),  # pyright: ignore[reportArgumentType]
        "interval must be an integer, got 1.5 of type float: pass",
    ),
    "negative warm-up": (
        lambda: final(num_warmup_epochs=-1),
        r"num_warmup_epochs must lie in \[0, .*\], got -1: choose",
    ),
    "infinite warm-up": (
        lambda: final(num_warmup_epochs=np.inf),
        "num_warmup_epochs.*inf",
    ),
    "final epochs of how many": (
        lambda: final(num_final_epochs=1),
        "num_final_epochs=1 needs num_epochs: pass",
    ),
    "too few epochs": (
        lambda: final(num_warmup_epochs=2, num_epochs=3, num_final_epochs=1.5),
        "num_warmup_epochs=2 and num_final_epochs=1.5 do not fit into num_epochs=3: sh",
    ),
    "recommended for 2 epochs": (
        lambda: teachers.recommended(2),
        "num_epochs must be at least 3, got 2: pass 3 or more",
    ),
    "empty pool": (lambda: TEACHER.init(0), "num_examples.*1, got 0: pass 1 or more"),
    "scores of another pool": (
        lambda: TEACHER.update(KEY, TEACHER.init(5), POOL),
        r"scores must have shape \(5,\).*got \(4,\): pass the whole pool's scores",
    ),
    # scores and transforms
    "reduced loss": (
        lambda: score(scores.loss(reduced)),
        r"loss_fn must return shape \(4,\).*returned shape \(\): .*drop the mean",
    ),
    "loss per position": (
        lambda: score(scores.loss(per_position)),
        r"loss_fn must return shape \(4,\).*returned shape \(4, 2\): .*masked_mean",
    ),
    "reduced loss, by gradient": (
        lambda: score(scores.gradient_norm(reduced)),
        r"loss_fn must return shape \(1,\).*shape \(\): .*drop the mean",
    ),
    "reduced reference": (
        lambda: score(scores.reducible_loss(per_example, lambda batch: jnp.ones(()))),
        r"reference must return shape \(4,\).*shape \(\)",
    ),
    "reduced output loss": (
        lambda: score(scores.ntk_guided(outputs, lambda f, batch: jnp.mean(f))),
        r"output_loss_fn must return one loss per example.*shape \(\): drop",
    ),
    "output loss without positions beside a mask, in chunks": (
        lambda: score(
            scores.ntk_guided(
                outputs,
                lambda f, batch: f.sum(axis=1),
                mask_fn=lambda batch: jnp.ones_like(batch["x"], bool),
                chunk_size=2,
            )
        ),
        r"output_loss_fn.*per example and position, shape \(2, 2\), but.*\(2,\): drop",
    ),
    "output loss without positions beside a mask": (
        lambda: score(
            scores.functional_gradient_norm(
                outputs,
                lambda f, batch: f.sum(axis=1),
                mask_fn=lambda batch: jnp.ones((4, 2), bool),
            )
        ),
        r"output_loss_fn.*per example and position, shape \(4, 2\), but.*\(4,\): drop",
    ),
    "targets of another shape": (
        lambda: score(scores.discrepancy(outputs, target_fn=lambda batch: batch["y"])),
        r"apply_fn returned shape \(4, 2\) but target_fn shape \(4,\): they must agree",
    ),
    "mask of another shape": (
        lambda: scores.masked_mean(jnp.ones((4, 2)), jnp.ones((4, 3), bool)),
        r"mask has shape \(4, 3\) but values \(4, 2\): the mask must",
    ),
    "no microbatch": (
        lambda: scores.gradient_norm(per_example, 0),
        "microbatch_size must be at least 1, got 0: pass 1 or more",
    ),
    "decay above 1": (lambda: scores.ema(1.5), r"decay.*\[0, 1\], got 1.5: choose"),
    "decay 1": (lambda: scores.ema(1.0), "decay is 1, .*: lower it"),
    "a table of too large a pool": (
        lambda: scores.ScoreTable.init(2**31),
        "num_examples must be at most 2147483647, got 2147483648: pass",
    ),
    "a table's decay of 1": (
        lambda: scores.ScoreTable.init(4, decay=1.0),
        "decay is 1, .*: lower it",
    ),
    "the mean loss for the losses": (
        lambda: TABLE.update(np.arange(2), jnp.array(1.0), np.ones(2)),
        r"losses must have shape \(2,\), as ids, got \(\): .*info.losses, not",
    ),
    "losses of another batch": (
        lambda: TABLE.update(np.arange(2), jnp.ones(3)),
        r"losses must have shape \(2,\), as ids, got \(3,\): pass the loss of each",
    ),
    "weights of another batch": (
        lambda: TABLE.update(np.arange(2), jnp.ones(2), np.ones(3)),
        r"weights must have shape \(2,\), as ids, got \(3,\): pass",
    ),
    "an id beyond the pool": (
        lambda: TABLE.update(np.array([1, 4]), jnp.ones(2)),
        "ids must be between 0 and 3 for a table of 4 examples, got 4: make",
    ),
    "an id before the pool, in a jax array": (
        lambda: TABLE.update(jnp.array([-1, 2]), jnp.ones(2)),
        "ids must be between 0 and 3 .*, got -1: make",
    ),
    "an id beyond the pool, in a list": (
        lambda: TABLE.update([4], [1.0]),
        "ids must be between 0 and 3 .*, got 4: make",
    ),
    "one id": (
        lambda: TABLE.update(3, 1.0),
        r"ids must be integers of shape \[batch\], got int64 of shape \(\): pass",
    ),
    "ids that are not integers": (
        lambda: TABLE.update(jnp.ones(2), jnp.ones(2)),
        r"ids must be integers of shape \[batch\], got float32 of shape \(2,\): pass",
    ),
    "a float0 parameter": (
        lambda: scores.gradient_norm(per_example)(
            {"a": jnp.ones(2), "b": np.zeros(2, jax.dtypes.float0)}, None, BATCH
        ),
        "params leaf 'b' is float0, which has no gradient: freeze it with trainable=",
    ),
    "a frozen leaf that does not exist": (
        lambda: scores.gradient_norm(per_example, trainable={"c": False})(
            {"a": jnp.ones(2)}, None, BATCH
        ),
        "trainable=.* does not fit params",
    ),
    "quantile 0": (lambda: scores.trim_top(0), r"quantile.*\(0, 1\], got 0: choose"),
    # pools, training
    "empty arrays": (
        lambda: data.ArrayPool(np.ones((0, 3))),
        "arrays is an empty pool: give it at least one example",
    ),
    "ragged arrays": (
        lambda: data.ArrayPool({"x": np.ones(3), "y": np.ones(4)}),
        r"arrays's leaves disagree.*\['x'\]: 3, arrays\['y'\]: 4.*same leading size",
    ),
    "a scalar among arrays": (
        lambda: data.ArrayPool({"x": np.ones(3), "y": np.float32(1)}),
        r"arrays\['y'\] has no batch axis.*close over constants",
    ),
    "no arrays": (lambda: data.ArrayPool({}), "arrays has no arrays: pass a pytree"),
    "empty source": (
        lambda: data.SourcePool([]),
        "source is an empty pool: give it at least one example",
    ),
    "a generator": (
        lambda: data.SourcePool(iter([1])),  # pyright: ignore[reportArgumentType]
        "source must have __len__ and __getitem__, got list_iterator: wrap",
    ),
    "selection of another pool": (
        lambda: data.epoch_batches(ARRAYS, TOP_K(KEY, jnp.ones(5), 1), 2, 0),
        "selection is of a pool of 5 examples but pool has 4: initialise",
    ),
    "batches of nothing": (
        lambda: data.epoch_batches(ARRAYS, TOP_K(KEY, POOL, 1), 0, 0),
        "batch_size must be at least 1, got 0: pass 1 or more",
    ),
    "a score for the batch": (
        lambda: training.score_pool(lambda p, r, b: b.sum(), None, ARRAYS),
        r"score_fn must return shape \(4,\).*shape \(\): .*drop the mean",
    ),
    "a step on a mean": (
        lambda: step(reduced),
        r"loss_fn must return shape \(4,\).*shape \(\): .*drop the mean",
    ),
    "a step on positions": (
        lambda: step(per_position),
        r"loss_fn must return shape \(4,\).*shape \(4, 2\): .*masked_mean",
    ),
    "a step with too few weights": (
        lambda: step(per_example, weights=jnp.ones(3)),
        r"weights must have shape \(4,\).*got \(3,\)",
    ),
    "a step on a scalar leaf": (
        lambda: step(per_example, batch={**BATCH, "scale": 2.0}),
        r"batch\['scale'\] has no batch axis.*close over constants",
    ),
    "a step on ragged leaves": (
        lambda: step(per_example, batch={**BATCH, "z": jnp.ones(3)}),
        r"batch's leaves disagree.*batch\['z'\]: 3.*same leading size",
    ),
    "free forward passes": (
        lambda: PLAN.cost(forward=0),
        r"forward must lie in \(0, inf\], got 0: choose",
    ),
    "a negative price": (
        lambda: PLAN.cost(score=-1),
        r"score must lie in \[0, inf\], got -1: choose",
    ),
    "losses and aux for scores": (
        lambda: whole_score(scores.loss(with_output), 1.0),
        r"loss_fn returned a tuple: return the array \[batch\] alone",
    ),
    "losses and aux for gradient norms": (
        lambda: whole_score(scores.gradient_norm(with_output), 1.0),
        "loss_fn returned a tuple: return the array",
    ),
    "scores and aux": (
        lambda: whole_score(with_output, 1.0),
        "score_fn returned a tuple: return the array",
    ),
    "a state for its parameters": (
        lambda: whole_score(per_example, SGD_STATE),
        r"params is a TrainState: pass its parameters, state\.params",
    ),
    "a score's factory": (
        lambda: whole_score(scores.loss),
        r"score_fn must be a function.*got loss itself: .*scores\.loss\(loss_fn\)",
    ),
    "a score's factory with options": (
        lambda: whole_score(scores.gradient_norm),
        "score_fn must be a function.*got gradient_norm itself: .*call a factory",
    ),
    "a score of two arguments": (
        lambda: whole_score(lambda params, batch: batch),
        r"score_fn must be a function \(params, rng, batch\)",
    ),
    "a score that is not hashable": (
        lambda: whole_score(Unhashable()),
        "score_fn must be hashable, got Unhashable.*wrap it in a function",
    ),
    "a pool for its size": (
        lambda: TEACHER.init(ARRAYS),  # pyright: ignore[reportArgumentType]
        r"num_examples must be an integer, got .*ArrayPool.*: pass its length, len\(",
    ),
    "a function for a count": (
        lambda: teachers.recommended(teachers.plan),  # pyright: ignore[reportArgumentType]
        "num_epochs must be an integer, got plan itself: pass a Python int",
    ),
    "a selection for a teacher's state": (
        lambda: TEACHER.update(KEY, TEACHER.init(4).selection, POOL),  # pyright: ignore[reportArgumentType]
        "state must be a TeacherState, got Selection: make one with teacher.init",
    ),
    "a teacher's arguments in another order": (
        lambda: TEACHER.update(TEACHER.init(4), KEY, POOL),  # pyright: ignore[reportArgumentType]
        r"state must be a TeacherState, got .*pass \(rng, state, scores\)",
    ),
    "a selection for what is due": (
        lambda: TEACHER.needs_scores(TEACHER.init(4).selection),  # pyright: ignore[reportArgumentType]
        "state must be a TeacherState, got Selection: make",
    ),
    "another teacher's state": (
        lambda: ATTENT(TOP_K, 0.5, score_transform=scores.ema(0.5)).update(
            KEY, TEACHER.init(4), POOL
        ),
        "state is of a teacher with another score_transform: make it with this",
    ),
    "several transforms": (
        lambda: ATTENT(TOP_K, 0.5, score_transform=[scores.ema(0.5)]),  # pyright: ignore[reportArgumentType]
        r"score_transform must be one ScoreTransform, got a list: .*scores\.chain\(",
    ),
    "a list of transforms": (
        lambda: scores.chain([scores.ema(0.5)]),  # pyright: ignore[reportArgumentType]
        r"transforms\[0\] must be one ScoreTransform, got a list: .*chain\(first, ",
    ),
    "weights in place of the batch": (
        lambda: step(per_example, batch=WEIGHTS, weights=BATCH),
        r"weights must have shape \(4,\).*got dict: .*\(state, rng, batch, weights\)",
    ),
    "no weights": (
        lambda: step(per_example, weights=None),
        r"weights must have shape \(4,\).*got NoneType: pass e.g. jnp.ones\(4\)",
    ),
    "a frozen part alone": (
        lambda: training.init_train_state(
            {"base": POOL, "lora": POOL}, SGD, trainable={"lora": True}
        ),
        r"trainable={'lora': True} does not fit params, whose leaves are base, lora: g",
    ),
    "nothing to train": (
        lambda: training.init_train_state(
            {"a": POOL}, SGD, trainable=lambda path: False
        ),
        "trainable=<lambda> leaves no parameter to train; the paths are a: mark",
    ),
    # distributed
    "a mesh in the second place": (
        lambda: distributed.fsdp_shardings(SGD_STATE, MESH),  # pyright: ignore[reportArgumentType]
        "mesh must be a jax.sharding.Mesh, got TrainState: .*make_mesh, and pass it f",
    ),
    "devices for a mesh": (
        lambda: distributed.replicated(jax.devices()),  # pyright: ignore[reportArgumentType]
        "mesh must be a jax.sharding.Mesh, got list: make it",
    ),
    "a mesh for a sharding": (
        lambda: distributed.put(SGD_STATE, MESH),
        r"shardings must hold shardings, got Mesh: pass e.g. .*replicated\(mesh\)",
    ),
    # models
    "heads without outputs": (
        lambda: models.AttentionLearner(4, 2).init(KEY, jnp.ones((1, 2, 3))),
        "num_heads is 2 without num_outputs: .*pass num_outputs",
    ),
    "pixels left over": (
        lambda: models.VisionTransformer(5, 4, 8, 1, 2).init(
            KEY, jnp.ones((1, 8, 6, 1))
        ),
        "8 × 6 pixels do not divide into patches of 4: resize",
    ),
}


@pytest.mark.parametrize(("act", "message"), CASES.values(), ids=CASES.keys())
def test_error_names_argument_value_and_remedy(act, message):
    with pytest.raises((ValueError, TypeError), match=message):
        act()


@pytest.mark.parametrize("make", MAKE_STEPS.values(), ids=MAKE_STEPS.keys())
class TestSteps:
    def refuses(self, make, message, loss_fn=per_example, optimizer=SGD, **arguments):
        given = {"state": SGD_STATE, "rng": KEY, "batch": BATCH, "weights": WEIGHTS}
        with pytest.raises((ValueError, TypeError), match=message) as caught:
            make(loss_fn, optimizer)(*{**given, **arguments}.values())
        return str(caught.value)

    def test_losses_without_a_gradient(self, make):
        self.refuses(
            make,
            "loss_fn must return floating point, got int32, which has no gradient: re",
            lambda *arguments: (per_example(*arguments) > 0.1).astype(jnp.int32),
        )

    @pytest.mark.parametrize(
        ("optimizer", "other"), [(SGD, ADAM), (ADAM, SGD)], ids=["adam's", "sgd's"]
    )
    def test_a_state_of_another_optimizer(self, make, optimizer, other):
        message = self.refuses(
            make,
            "does not fit the optimizer.*: give init_train_state and the train step "
            "the same optimizer and the same trainable=",
            optimizer=optimizer,
            state=training.init_train_state(jnp.array(1.0), other),
        )
        assert len(message) < 450

    def test_parameters_for_a_state(self, make):
        message = r"state must be a TrainState, got dict: make one with .*init_train_s"
        self.refuses(make, message, state={"w": jnp.ones(2)})

    def test_arguments_in_another_order(self, make):
        message = r"state must be a TrainState.*pass \(state, rng, batch, weights\)"
        self.refuses(make, message, state=KEY, rng=SGD_STATE)


RNG_TAKERS = {
    "gumbel_top_k": lambda rng: SOFT(rng, POOL, 1),
    "uniform": lambda rng: UNIFORM(rng, POOL, 1),
    "balanced": lambda rng: selectors.balanced(np.arange(4))(rng, POOL, 1),
    "mix_uniform": lambda rng: MIXED(rng, POOL, 1),
    "teacher.update": lambda rng: TEACHER.update(rng, TEACHER.init(4), POOL),
    "train step": lambda rng: step(per_example, rng),
    "score_pool": lambda rng: training.score_pool(
        lambda params, rng, batch: batch, None, ARRAYS, rng=rng
    ),
}
SELECTORS = ["gumbel_top_k", "uniform", "balanced", "mix_uniform"]
WRONG_RNGS = {
    "raw key": (
        jax.random.PRNGKey(0),
        "rng must be a typed key.*uint32.*wrap_key_data",
    ),
    "integer": (0, r"rng must be a typed key, got .*jax.random.key\(seed\)"),
    "numpy": (np.array([0, 1], np.uint32), "rng must be a typed key, got .*jax.random"),
    "several keys": (jax.random.split(KEY, 3), r"rng.*keys of shape \(3,\): .*vmap"),
}


@pytest.mark.parametrize("take", RNG_TAKERS.values(), ids=RNG_TAKERS.keys())
@pytest.mark.parametrize(("rng", "message"), WRONG_RNGS.values(), ids=WRONG_RNGS.keys())
def test_anything_but_one_typed_key_is_refused(take, rng, message):
    with pytest.raises((ValueError, TypeError), match=message):
        take(rng)


@pytest.mark.parametrize("name", SELECTORS)
def test_a_draw_needs_a_key(name):
    with pytest.raises(TypeError, match=r"rng must be a typed key, got None: make one"):
        RNG_TAKERS[name](None)
