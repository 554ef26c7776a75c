"""The templates of ``reports/`` and their style; the only module that knows Jinja2."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from urllib.parse import quote

from modelkit.reporting.charts.svg import plain, safe
from modelkit.reporting.pages.tables import figure_table
from modelkit.runtime.resources import bundled


@lru_cache(maxsize=1)
def environment() -> Any:
    """The templates of ``reports/`` with their filters."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(bundled("reports")), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["plain"] = plain
    environment.filters["name"] = lambda text: markup(f"<bdi>{safe(text)}</bdi>")
    environment.filters["whole_names"] = _whole_names
    environment.filters["drawing"] = markup
    environment.filters["data_uri"] = _data_uri
    environment.filters["figure_table"] = figure_table
    return environment


def markup(text: str) -> Any:
    """Text that is HTML already: the style sheet, the script, and drawings that escaped what they were given."""
    from markupsafe import Markup

    return Markup(text)


def _whole_names(text: str) -> Any:
    """A headline in which no short name, such as ``mc-sf``, is broken at its hyphen."""
    words = plain(text).split(" ")
    return markup(
        " ".join(f'<span class="whole">{safe(w)}</span>' if "-" in w and len(w) <= 16 else str(safe(w)) for w in words)
    )


def _data_uri(csv: str) -> str:
    """A table as an address that holds it."""
    return "data:text/csv;charset=utf-8," + quote(csv, safe=",.:;()[]/=+*@!?~-_ ").replace(" ", "%20")


def style_of_reports() -> str:
    """The style sheet of all pages."""
    return asset("report.css")


def asset(name: str) -> str:
    """The text of a file of ``reports/``."""
    return (bundled("reports") / name).read_text(encoding="utf-8")
