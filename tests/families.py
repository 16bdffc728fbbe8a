"""Every member of each family, for the contracts that apply to all of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from attent_jax import schedules, scores, selectors, teachers
from attent_jax._factories import described
from attent_jax.typing import SelectFn

POOL_SIZE = 11
LABELS = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2])


@described
def nint_of_one_score(refresh: int, mesh: Mesh | None = None) -> SelectFn:
    """`nint` in a selector's signature, the NTK score being the error."""
    mixed = selectors.nint(0.5, 5.0, mesh=mesh)

    def select(rng, scores, num_selected):
        """`(rng, scores[pool], num_selected) -> Selection`"""
        pair = selectors.NintScores(scores, scores)
        return mixed(rng, pair, num_selected, refresh)

    return select


SELECTORS = {
    "top_k": selectors.top_k(),
    "top_k nan_first": selectors.top_k(nan_first=True),
    "gumbel_top_k": selectors.gumbel_top_k(0.5),
    "gumbel_top_k cold": selectors.gumbel_top_k(0.0),
    "gumbel_top_k hot": selectors.gumbel_top_k(100.0),
    "uniform": selectors.uniform(),
    "balanced": selectors.balanced(LABELS),
    "mix_uniform of top_k": selectors.mix_uniform(selectors.top_k(), 0.4),
    "mix_uniform of gumbel_top_k": selectors.mix_uniform(selectors.gumbel_top_k(), 0.4),
    "mix_uniform of balanced": selectors.mix_uniform(selectors.balanced(LABELS), 1.0),
    "nint of one score": nint_of_one_score(3),
}


def selectors_over(mesh: Mesh | None, pool_size: int) -> dict[str, SelectFn]:
    """The selectors that take a mesh; None: the same ones on one device."""
    return {
        "top_k": selectors.top_k(mesh=mesh),
        "gumbel_top_k": selectors.gumbel_top_k(0.5, mesh=mesh),
        "uniform": selectors.uniform(mesh=mesh),
        "mix_uniform": selectors.mix_uniform(
            selectors.top_k(mesh=mesh), 0.4, mesh=mesh
        ),
        "balanced": selectors.balanced(np.arange(pool_size) % 3, 0.0, mesh=mesh),
        "nint": nint_of_one_score(3, mesh),
    }


SLOW = {
    # the same code as another member, in another setting
    *("gumbel_top_k cold", "gumbel_top_k hot", "mix_uniform of top_k"),
    *("attent", "attent without warm-up", "one_shot", "recommended"),
}


def members(family: dict[str, Any]) -> list[Any]:
    """A contract's parameters; those of SLOW run with the slow tests."""
    return [
        pytest.param(member, id=name, marks=[pytest.mark.slow] * (name in SLOW))
        for name, member in family.items()
    ]


SCHEDULES = {
    "constant": schedules.constant(0.3),
    "linear": schedules.linear(0.2, 0.8, 7),
    "cosine": schedules.cosine(0.2, 0.8, 7),
    "step": schedules.step([0.2, 0.5, 0.8], [3, 6]),
}

_soft = selectors.gumbel_top_k(0.5)
TEACHERS = {
    "attent": teachers.attent(_soft, 0.5),
    "attent by schedules": teachers.attent(
        _soft,
        schedules.linear(0.2, 1.0, 8),
        schedules.linear(1, 3, 8),
        num_warmup_epochs=2,
    ),
    "attent without warm-up": teachers.attent(selectors.top_k(), 0.3, 2, 0),
    "attent with fractions": teachers.attent(
        selectors.mix_uniform(_soft, 0.5),
        0.3,
        2,
        num_warmup_epochs=1.5,
        num_epochs=10,
        num_final_epochs=1.25,
    ),
    "attent with a score transform": teachers.attent(
        _soft,
        0.5,
        2,
        score_transform=scores.chain(scores.ema(0.5), scores.standardize()),
    ),
    "one_shot": teachers.one_shot(selectors.top_k(), 0.7),
    "full": teachers.full(),
    "recommended": teachers.recommended(),
    "recommended for 12 epochs": teachers.recommended(12),
}

TRANSFORMS = {
    "standardize": scores.standardize(),
    "ema": scores.ema(0.9),
    "trim_top": scores.trim_top(0.8),
    "chain": scores.chain(scores.ema(0.5), scores.standardize(), scores.trim_top(0.9)),
}


def apply_fn(params, rng, batch):
    outputs = jnp.tanh(batch["x"] @ params["w"])
    return outputs if rng is None else outputs + jax.random.uniform(rng, ())


def reference_loss(batch):
    return batch["reference"]


def squared_error(outputs, batch):
    return jnp.sum((outputs - batch["targets"]) ** 2, axis=-1) / 2


def loss_fn(params, rng, batch):
    return squared_error(apply_fn(params, rng, batch), batch)


SCORES = {
    "loss": scores.loss(loss_fn),
    "discrepancy": scores.discrepancy(apply_fn),
    "functional_gradient_norm": scores.functional_gradient_norm(
        apply_fn, squared_error
    ),
    "gradient_norm": scores.gradient_norm(loss_fn),
    "gradient_norm of some leaves": scores.gradient_norm(
        loss_fn, trainable={"w": True}
    ),
    "gradient_norm in microbatches": scores.gradient_norm(loss_fn, microbatch_size=4),
    "ntk_guided": scores.ntk_guided(apply_fn, squared_error),
    "ntk_guided in chunks": scores.ntk_guided(apply_fn, squared_error, chunk_size=4),
    "reducible_loss": scores.reducible_loss(loss_fn, reference_loss),
}


def learner(seed: int = 0) -> dict[str, jax.Array]:
    return {"w": jax.random.normal(jax.random.key(seed), (4, 3))}


def examples(num_examples: int, seed: int = 0) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    return {
        "x": draw.normal(size=(num_examples, 4)).astype(np.float32),
        "targets": draw.normal(size=(num_examples, 3)).astype(np.float32),
        "reference": draw.uniform(size=num_examples).astype(np.float32),
    }
