"""The README's programs run, and print what it says."""

import doctest
from pathlib import Path


def test_the_readmes_programs_run_as_printed():
    readme = Path(__file__).parents[1] / "README.md"
    results = doctest.testfile(str(readme), module_relative=False)
    assert results.attempted > 15
    assert results.failed == 0
