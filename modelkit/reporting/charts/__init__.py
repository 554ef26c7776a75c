"""Figures as inline SVG, drawn from results and from the judge's replay. The same input gives the same bytes.

No metric is computed here: values come from results, times and tokens from the replay.
"""

from modelkit.reporting.charts.svg import Figure, Panel, Plot, Swatch

__all__ = ["Figure", "Panel", "Plot", "Swatch"]
