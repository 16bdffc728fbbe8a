"""Report of the study, in Markdown and JSON."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.kernel_convergence.findings import Finding
from experiments.study.workdir import to_json_text

_VERDICTS = """\
**holds**: the measurement agrees with the claim, within the tolerance that the figure's
module states. **fails**: it does not. **inconclusive**: training was too short, or the
seeds disagree.
"""


class Outcome(NamedTuple):
    """A completed figure."""

    name: str
    caption: str
    """What was run, and why."""
    data: Any
    findings: Sequence[Finding]
    seconds: float
    """Wall time with compilation."""


def to_json(outcomes: Sequence[Outcome], **about: Any) -> str:
    """All numbers of all figures; those that are not finite become null."""
    return to_json_text({**about, "figures": list(outcomes)})


def to_markdown(outcomes: Sequence[Outcome], *, title: str, text: str) -> str:
    """The table of verdicts, then each figure with its caption."""
    table = ["| claim | verdict |", "|---|---|"]
    sections = []
    for number, outcome in enumerate(outcomes, start=1):
        table += [
            f"| {number}. {finding.claim} | **{finding.verdict}** |"
            for finding in outcome.findings
        ]
        headline, _, rest = outcome.caption.strip().partition("\n\n")
        sections += [
            f"## {number}. {headline}",
            " ".join(rest.split()),
            f"![{headline}]({outcome.name}.png)",
            "\n".join(
                f"* {finding.claim} → {finding.measured} → **{finding.verdict}**."
                for finding in outcome.findings
            ),
            f"({outcome.seconds:.0f} s)",
        ]
    return (
        "\n\n".join([f"# {title}", text, "\n".join(table), _VERDICTS, *sections]) + "\n"
    )
