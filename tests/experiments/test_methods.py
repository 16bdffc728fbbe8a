"""The methods of every comparison."""

import jax
import numpy as np
import pytest

from attent_jax import distributed
from experiments.study.compiled import compile_for
from experiments.study.methods import STANDARD_METHODS
from experiments.study.options import OptionError
from tests.experiments import tiny_study


@pytest.mark.parametrize("method", STANDARD_METHODS, ids=lambda method: method.name)
def test_seeds_share_a_teacher_that_does_not_depend_on_their_groups(method):
    """Each teacher compiles its functions, which takes longer than to run them."""
    first, second = (
        method.teacher(4, groups=np.arange(6) % 2 + seed, mesh=None) for seed in (0, 1)
    )
    assert (first is second) == (method.name != "balanced")


def test_groups_within_the_batch_that_do_not_divide_over_the_devices_are_refused():
    step = next(m.make_step for m in STANDARD_METHODS if m.name == "in-batch")
    mesh = distributed.make_mesh(devices=jax.devices()[:8])
    with pytest.raises(OptionError, match="batch_size is 16 on 8 devices: change one"):
        compile_for(tiny_study.WORKLOAD, step, mesh)
