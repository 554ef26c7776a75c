"""Figures of results, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from modelkit.arguments import checked_arguments
from modelkit.errors import unknown_name
from modelkit.instance import Instance
from modelkit.reporting.charts.svg import Figure
from modelkit.reporting.inline import inline_figures
from modelkit.reporting.pages.instance import figures_of
from modelkit.reporting.render import Reportable, cases_of


@dataclass(frozen=True)
class Drawing:
    """Figures that a notebook shows."""

    figures: tuple[Figure, ...]

    def __repr__(self) -> str:
        return f"Drawing({', '.join(repr(f.key) for f in self.figures) or 'nothing'})"

    def _repr_html_(self) -> str:
        return inline_figures(self.figures)


@checked_arguments
def draw(results: Reportable | Iterable[Reportable], *keys: str, instances: Iterable[Instance] = ()) -> Drawing:
    """The figures of a report, for notebooks.

    Parameters
    ----------
    results
        Results, certificates, or paths of such files, about one instance.
    keys
        Which figures, such as ``"timeline"``, ``"occupancy"``, ``"latency"``, ``"distances"``; none: all.
    instances
        The instance, where results were read from files.

    Raises
    ------
    UsageError
        There is nothing to draw, or no such figure of these results; the message has those that there are.
    """
    found = {f.key: f for case in cases_of(results, instances) for f in figures_of(case)}
    for key in keys:
        if key not in found:
            raise unknown_name("figure of these results", key, found)
    return Drawing(tuple(found[key] for key in keys or found))
