"""Figures and tables of a report as a piece of HTML, for notebooks and for pages of documentation.

The piece brings the style of reports with it, for itself alone: the rules are nested in its class. It has a ground of
its own, so that it can be read on light and on dark pages, and neither a script nor anything to be loaded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from modelkit.reporting.charts.svg import Figure
from modelkit.reporting.evidence import Case
from modelkit.reporting.pages.instance import figures_of, runs_of
from modelkit.reporting.templates import environment, style_of_reports

#: How pages say that they are light or dark whatever the system is: Jupyter, Visual Studio Code, Bootstrap.
_LIGHT = ('[data-jp-theme-light="true"]', ".vscode-light", '[data-bs-theme="light"]')
_DARK = ('[data-jp-theme-light="false"]', ".vscode-dark", '[data-bs-theme="dark"]')
#: Figures of a comparison that are shown at once; a report has all.
_AT_ONCE = ("values", "distances", "present")
#: Cases of a comparison that are shown.
MOST_CASES = 4


@lru_cache(maxsize=1)
def inline_style() -> str:
    """The style of reports for elements of the class ``modelkit`` alone."""
    style = style_of_reports()
    light, dark = (block.strip() for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2])
    for gone in (r"/\* A wide table may.*?\n\}\n", r"@page \{.*?\}", r"html \{.*?\}\n"):
        style = re.sub(gone, "", style, flags=re.DOTALL)
    nested = re.sub(r"(:root|\bbody) \{", "& {", style)
    own = "& { margin: 0.5rem 0; padding: 0.75rem 1rem; font-size: 0.9rem; }"
    own += " h3 { margin-top: 1.2rem; } p.finding { margin-top: 0; }"
    return (
        f".modelkit {{\n{nested}\n{own}\n}}\n"
        f"{', '.join(f'{page} .modelkit' for page in _LIGHT)} {{ {light} }}\n"
        f"{', '.join(f'{page} .modelkit' for page in _DARK)} {{ {dark} }}\n"
    )


def inline_figures(figures: Sequence[Figure], *, style: bool = True) -> str:
    """Figures as a piece of HTML.

    Parameters
    ----------
    style
        Whether the piece brings its style; without, the page has it.
    """
    return _piece([], figures, style)


def inline_cases(cases: Sequence[Case], *, style: bool = True) -> str:
    """What a comparison found, by instance and goal: the sentence, the runs, and how far they are from the optimum."""
    shown = [(f"{case.name}: {case.headline}.", replace(runs_of(case), sortable=False)) for case in cases[:MOST_CASES]]
    figures = [f for case in cases[:1] for f in figures_of(case) if f.key in _AT_ONCE] if len(cases) == 1 else []
    return _piece(shown, figures, style)


def _piece(found: Sequence[tuple[str, object]], figures: Sequence[Figure], style: bool) -> str:
    template = environment().get_template("inline.html.j2")
    return str(template.render(found=found, figures=figures, style=inline_style() if style else ""))
