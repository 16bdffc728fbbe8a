"""What every report has: its page in Markdown, and its file in JSON."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.study.workdir import to_json_text


def markdown_page(
    title: str,
    description: str,
    environments: Sequence[Mapping[str, str]],
    sections: Sequence[str],
    *,
    is_complete: bool,
) -> str:
    """A report in Markdown.

    Args:
      title: the heading.
      description: sentences about the experiment.
      environments: what each job was made with.
      sections: paragraphs, headings, tables and pictures.
      is_complete: whether all jobs are completed.
    """
    note = "" if is_complete else "**Incomplete: what is completed so far.** "
    about = f"{note}{description} {made_with(environments)}"
    return "\n\n".join([f"# {title}", about, *sections]) + "\n"


def made_with(environments: Sequence[Mapping[str, str]]) -> str:
    """What the jobs were made with, once for all that are alike."""
    about: dict[str, dict[str, None]] = defaultdict(dict)
    for environment in environments:
        for name, value in environment.items():
            about[name][value] = None
    made = ", ".join(f"{name} {' | '.join(values)}" for name, values in about.items())
    return f"Made with {made}."


def markdown_table(cells: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def json_page(config: Mapping[str, Any], *, is_complete: bool, **data: Any) -> str:
    """A report in JSON; NaN, such as the interval of one seed, becomes null."""
    return to_json_text(
        {"title": config["title"], "is_complete": is_complete, "config": config, **data}
    )
