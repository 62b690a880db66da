"""Tables, and where they go in documents that are otherwise written by hand."""

from __future__ import annotations

from pathlib import Path


def table(heads: list[str], lines: list[list[str]]) -> str:
    rule = "|" + "---|" * len(heads)
    heading, *rows = ("| " + " | ".join(cells) + " |" for cells in [heads, *lines])
    return "\n".join([heading, rule, *rows])


def replace(document: Path, writer: str, text: str) -> None:
    """Puts `text` between the two marks of `writer` in a document."""
    begin, end = f"<!-- written by {writer} -->", f"<!-- end of what {writer} writes -->"
    before, rest = document.read_text().split(begin)
    document.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")
