"""Docstrings say `Example:`; griffe reads doctests under `Examples:` only."""

import re

import griffe


class Examples(griffe.Extension):
    """Renames the section before the docstring is parsed."""

    def on_object(self, *, obj: griffe.Object | griffe.Alias, **_) -> None:
        if not obj.is_alias and obj.docstring:
            obj.docstring.value = re.sub(
                r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE
            )
