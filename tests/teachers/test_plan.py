"""The plan against tables written by hand, and against the teacher itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attent_jax import teachers
from attent_jax.schedules import linear, step
from attent_jax.selectors import top_k
from attent_jax.teachers import attent, full, one_shot
from tests.families import TEACHERS

# teacher, examples, batch size; whether each epoch scores, and examples it teaches
TABLES = {
    # ratio 0.2 at epoch 0 already; intervals 1 + 4 e / 8: e1 -> 1, e2 -> 2, e4 -> 3, e7
    "ratio and interval rise": (
        attent(top_k(), linear(0.2, 1.0, 8), linear(1, 5, 8)),
        (100, 30),
        "-ss-s--s--",
        [100, 30, 40, 40, 60, 60, 60, 90, 90, 90],
    ),
    "two epochs of warm-up": (
        attent(top_k(), 0.25, 3, num_warmup_epochs=2),
        (10, 4),
        "--s--s--s-",
        [10, 10, 2, 2, 2, 2, 2, 2, 2, 2],
    ),
    "no warm-up": (attent(top_k(), 0.5, 2, 0), (9, 4), "s-s-s", [4, 4, 4, 4, 4]),
    # 1.5: one on all, one on half; 1.25 at the end: one on a quarter, one on all
    "fractions": (
        attent(top_k(), 0.2, 2, 1.5, num_epochs=8, num_final_epochs=1.25),
        (100, 32),
        "--s-s---",
        [100, 50, 20, 20, 20, 20, 25, 100],
    ),
    "final epochs cut an interval short": (
        attent(top_k(), 0.2, 4, 0, num_epochs=7, num_final_epochs=2),
        (10, 4),
        "s---s--",
        [2, 2, 2, 2, 2, 10, 10],
    ),
    "nothing between warm-up and end": (
        attent(top_k(), 0.2, 1, 2, num_epochs=3, num_final_epochs=1),
        (10, 4),
        "---",
        [10, 10, 10],
    ),
    "an interval of 2.9 lasts 2": (
        attent(top_k(), 0.5, lambda epoch: jnp.float32(2.9)),
        (10, 4),
        "-s-s-s",
        [10, 5, 5, 5, 5, 5],
    ),
    "one_shot": (one_shot(top_k(), 0.7), (10, 4), "-s---", [10, 7, 7, 7, 7]),
    "full": (full(), (10, 4), "----", [10, 10, 10, 10]),
}


@pytest.mark.parametrize(
    ("teacher", "sizes", "scored", "taught"), TABLES.values(), ids=TABLES.keys()
)
def test_plan_is_the_table(teacher, sizes, scored, taught):
    num_examples, batch_size = sizes
    plan = teachers.plan(
        teacher,
        num_examples=num_examples,
        num_epochs=len(scored),
        batch_size=batch_size,
    )
    assert "".join("s" if due else "-" for due in plan.needs_scores) == scored
    assert plan.num_selected.tolist() == taught
    # the ragged last batch is a step: 100 in batches of 30 are 4, not 3
    steps = [len(range(0, count, batch_size)) for count in taught]
    assert plan.steps_per_epoch.tolist() == steps
    assert plan.num_steps == sum(steps)
    assert plan.num_taught == sum(taught)
    assert plan.num_scored == scored.count("s") * num_examples


@pytest.mark.parametrize("name", TEACHERS)
def test_plan_is_what_the_teacher_then_does(name):
    teacher, num_epochs, num_examples = TEACHERS[name], 12, 97
    plan = teachers.plan(
        teacher, num_examples=num_examples, num_epochs=num_epochs, batch_size=10
    )
    state = teacher.init(num_examples)
    for epoch in range(num_epochs):
        assert plan.needs_scores[epoch] == teacher.needs_scores(state)
        # scores' values must not matter to the plan
        rng = jax.random.key(epoch)
        scores = jax.random.normal(rng, (num_examples,))
        state, _ = teacher.update(rng, state, scores)
        assert plan.num_selected[epoch] == state.selection.num_selected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": linear(0.5, 1.5, 4)}, r"ratio is 1.25 at epoch 3.*\(0, 1\]"),
        ({"ratio": step([0.5, 0.0], [2])}, "ratio is 0 at epoch 2"),
        (
            {"ratio": lambda epoch: jnp.where(epoch > 0, jnp.nan, 0.5)},
            "ratio is nan at epoch 1",
        ),
        (
            {"ratio": 0.5, "interval": linear(2, 0, 4)},
            "interval is 0 at epoch 3.*1",
        ),
    ],
)
def test_schedules_out_of_range_are_refused_with_their_epoch(arguments, message):
    with pytest.raises(ValueError, match=message):
        teachers.plan(
            attent(top_k(), **arguments), num_examples=10, num_epochs=6, batch_size=4
        )


def test_the_printed_table_has_a_line_for_each_epoch():
    plan = teachers.plan(
        one_shot(top_k(), 0.7), num_examples=10, num_epochs=3, batch_size=4
    )
    assert [line.split() for line in str(plan).splitlines()] == [
        ["epoch", "scores", "num_selected", "steps"],
        ["0", "-", "10", "3"],
        ["1", "yes", "7", "2"],
        ["2", "-", "7", "2"],
    ]
    assert plan.num_selected.dtype == np.int32
