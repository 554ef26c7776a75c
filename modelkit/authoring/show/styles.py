"""How a terminal, LaTeX and a page write names, letters and sums."""

from __future__ import annotations

import html
from collections.abc import Mapping


class Text:
    """How a terminal writes it."""

    minus, element, all_, times, apart = "-", " ∈ ", "for all ", " ", " ≠ "
    relations: Mapping[str, str] = {"=": " = ", "≤": " ≤ ", "≥": " ≥ ", "min": "min  ", "max": "max  "}

    def name(self, name: str, index: str = "", *, upright: bool = False) -> str:
        return f"{name}[{glue(index)}]" if index else name

    def letter(self, letter: str) -> str:
        return letter

    def words(self, text: str) -> str:
        """An index that is no letter: a number, or the end of a set in words."""
        return text

    def sum(self, over: str, body: str) -> str:
        return f"∑[{glue(over)}] {body}"

    def before(self, one: str, other: str, order: str) -> str:
        return f"{one} before {other} in {order}"


class Latex(Text):
    """How LaTeX writes it."""

    element, all_, times, apart = r" \in ", r"\forall\, ", r"\, ", r" \ne "
    relations: Mapping[str, str] = {"=": " = ", "≤": r" \le ", "≥": r" \ge ", "min": r"\min\; ", "max": r"\max\; "}

    def name(self, name: str, index: str = "", *, upright: bool = False) -> str:
        face = "mathrm" if upright else "mathit"
        return rf"\{face}{{{latex_text(name)}}}" + (f"_{{{index}}}" if index else "")

    def letter(self, letter: str) -> str:
        return letter.replace("′", "'")

    def words(self, text: str) -> str:
        return rf"\text{{{latex_text(text)}}}"

    def sum(self, over: str, body: str) -> str:
        return rf"\sum_{{{over}}} {body}"

    def before(self, one: str, other: str, order: str) -> str:
        return rf"{one} \text{{ before }} {other} \text{{ in }} {order}"


class Html(Text):
    """How a page writes it: no script, no font of its own."""

    minus, element, all_, times = "−", " ∈ ", "∀ ", " "

    def name(self, name: str, index: str = "", *, upright: bool = False) -> str:
        face = "b" if upright else "i"
        return f"<{face}>{html.escape(name)}</{face}>" + (f"<sub>{index}</sub>" if index else "")

    def letter(self, letter: str) -> str:
        return f"<i>{letter}</i>"

    def words(self, text: str) -> str:
        return html.escape(text)

    def sum(self, over: str, body: str) -> str:
        return f'<span class="sum">∑<sub>{over}</sub></span> {body}'


def glue(text: str) -> str:
    """Text that is not broken at the end of a line."""
    return text.replace(", ", ",").replace(" ", "\u00a0")


def latex_text(text: str) -> str:
    """Words for LaTeX."""
    for before, after in (("\\", r"\backslash "), ("_", r"\_"), ("%", r"\%"), ("&", r"\&"), ("#", r"\#"), ("$", r"\$"),
                          ("^", r"\^{}"), ("≤", r"$\le$"), ("≥", r"$\ge$")):  # fmt: skip
        text = text.replace(before, after)
    return text
