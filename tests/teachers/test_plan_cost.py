"""The cost model against values computed by hand."""

import pytest

from attent_jax import teachers
from attent_jax.selectors import top_k
from attent_jax.teachers import attent, full


def plan_of(ratio, interval=1, num_epochs=12, num_warmup_epochs=0):
    return teachers.plan(
        attent(top_k(), ratio, interval, num_warmup_epochs),
        num_examples=1000,
        num_epochs=num_epochs,
        batch_size=50,
    )


@pytest.mark.parametrize("interval", [1, 2, 3, 4])
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.9])
def test_scoring_by_intervals_costs_ratio_and_a_third_of_a_forward(ratio, interval):
    plan = plan_of(ratio, interval)
    assert plan.cost().relative == pytest.approx(ratio + 1 / (3 * interval))
    # LoRA: the backward pass costs one forward
    lora = plan.cost(backward=1.0)
    assert lora.relative == pytest.approx(ratio + 1 / (2 * interval))
    # losses of training cost nothing
    assert plan.cost(score=0).relative == pytest.approx(ratio)


def test_scoring_each_epoch_is_cheaper_below_two_thirds_and_for_lora_below_half():
    assert plan_of(0.66).cost().is_cheaper
    assert not plan_of(0.67).cost().is_cheaper
    assert plan_of(0.49).cost(backward=1.0).is_cheaper
    assert not plan_of(0.5).cost(backward=1.0).is_cheaper  # equal is not cheaper
    assert plan_of(0.99).cost(score=0).is_cheaper


def test_costs_are_in_the_unit_of_forward_and_count_the_warm_up():
    # 2 epochs of 1000 and 4 of 500, scored 4 times
    priced = plan_of(0.5, 1, 6, 2).cost(forward=10, backward=30, score=0.5)
    assert priced == (4000 * 40, 4 * 1000 * 5, 6000 * 40)
    assert priced.relative == pytest.approx(180 / 240)


def test_full_training_has_a_relative_cost_of_one():
    plan = teachers.plan(full(), num_examples=10, num_epochs=3, batch_size=5)
    assert plan.cost().relative == 1
    assert str(plan.cost()).startswith(
        "not cheaper: 1.00 of full training's cost, 0% of it scoring; lower"
    )
    # 0.9 + 1/3, of which 1/3 scoring
    assert str(plan_of(0.9).cost()).startswith(
        "not cheaper: 1.23 of full training's cost, 27%"
    )
    assert str(plan_of(0.5).cost()).startswith("cheaper: ")
