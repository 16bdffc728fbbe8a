"""Contracts compile thousands of small programs: most without optimisation."""

import pytest

OF_COMPILED_PROGRAMS = ("test_division_of_work", "test_work_is_divided_training")


@pytest.fixture(autouse=True)
def _compile_fast(request):
    if request.path.stem not in OF_COMPILED_PROGRAMS:
        request.getfixturevalue("compile_fast")
