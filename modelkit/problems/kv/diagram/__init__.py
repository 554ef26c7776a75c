"""Proven optima where memory is small: partitions of the held tokens, then decision diagrams of it over time."""

from modelkit.problems.kv.diagram.search import NEIGHBOURHOODS, Search, SearchProgress, refusal

__all__ = ["NEIGHBOURHOODS", "Search", "SearchProgress", "refusal"]
