"""The notebook of the documentation: run from top to bottom, and as a page.

``python docs/notebook.py`` runs it and writes what its cells show into the file. Jupyter is not needed: a cell is
Python, and what it shows is the value of its last expression, as HTML where that has `_repr_html_`.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parent / "pages" / "notebooks" / "how-far.ipynb"


def read(path: Path = NOTEBOOK) -> dict[str, Any]:
    """The notebook as it lies on disk."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def executed(document: dict[str, Any]) -> dict[str, Any]:
    """The notebook with what its cells show when they are run, in a folder that is gone afterwards."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells, number, before = [], 0, Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for cell in document["cells"]:
                if cell["cell_type"] == "code":
                    number += 1
                    shown = outputs("".join(cell["source"]), names, number)
                    cell = {**cell, "execution_count": number, "outputs": shown}
                cells.append(cell)
        finally:
            os.chdir(before)
    return {**document, "cells": cells}


def outputs(source: str, names: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """What a cell shows: what it prints, and the value of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"cell {number}", "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
    shown: list[dict[str, Any]] = []
    if text := printed.getvalue():
        shown.append({"output_type": "stream", "name": "stdout", "text": lines(text)})
    if value is not None:
        data = {"text/plain": lines(repr(value))}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = lines(value._repr_html_())
        shown.append({"output_type": "execute_result", "execution_count": number, "data": data, "metadata": {}})
    return shown


def lines(text: str) -> list[str]:
    """Text as notebooks store it."""
    return text.splitlines(keepends=True)


def page(document: dict[str, Any]) -> str:
    """The notebook as Markdown, with what its cells show."""
    parts = []
    for cell in document["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {"text/plain": output.get("text", [])})
            html = "".join(data.get("text/html", []))
            parts.append(
                f'<div markdown="0">\n{html}\n</div>' if html else f"```text\n{''.join(data['text/plain'])}\n```"
            )
    parts.append("[The notebook as a file](notebooks/how-far.ipynb)")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(json.dumps(executed(read()), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
