"""When to score, when to select again, what is being taught, and what it costs."""

from attent_jax.teachers._attent import attent, full, one_shot
from attent_jax.teachers._plan import TeachingPlan, plan
from attent_jax.teachers._plan_cost import PlanCost
from attent_jax.teachers._recommended import recommended

__all__ = [
    "PlanCost",
    "TeachingPlan",
    "attent",
    "full",
    "one_shot",
    "plan",
    "recommended",
]
