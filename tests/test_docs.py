"""The programs in README.md and docs/ run and print what the page shows."""

import doctest
import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if ">>>" in page.read_text()
)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def without_fences(page: Path) -> str:
    """The page with its code fences blank, or doctest takes them for output."""
    return re.sub(r"^ *```.*$", "", page.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_programs_of_a_page_run_as_printed(page):
    test = doctest.DocTestParser().get_doctest(
        without_fences(page), {}, name(page), str(page), 0
    )
    output = []
    x64 = jax.config.read("jax_enable_x64")
    try:
        results = doctest.DocTestRunner().run(test, out=output.append)
    finally:
        jax.config.update("jax_enable_x64", x64)
    assert not results.failed, "".join(output)


@pytest.mark.parametrize("page", [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
def test_every_python_block_of_a_page_is_run(page):
    # a block without prompts would be shown but never executed
    for block in re.findall(
        r"^ *```(?:python|py|pycon)\n *(.*)$", page.read_text(), re.M
    ):
        assert block.startswith(">>> ")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
