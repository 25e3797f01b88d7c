"""Figures in a document: everything between two comments of it is replaced, so that all of it is of one measurement."""

from __future__ import annotations

import os
from pathlib import Path

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


def insert(document: Path, text: str, plot: Path | None) -> None:
    """Replace what is between the comments by the text, with the plot in front of it if there is one.

    Raises ValueError if the document has not each comment once, in this order.
    """
    check(document)
    before, _, rest = document.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    parts = ["", text.strip(), ""]
    if plot is not None:
        place = Path(os.path.relpath(plot, document.parent)).as_posix()
        parts[1:1] = [f"![Seconds of each program in each workload, on a logarithmic scale]({place})", ""]
    document.write_text("\n".join([before + BEGIN, *parts, END + after]), "utf-8")


def check(document: Path) -> None:
    """Raise ValueError if figures can't be put into a document, OSError if it can't be read."""
    text = document.read_text("utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{document} needs the two lines {BEGIN} and {END}, each once: figures are put between them")
