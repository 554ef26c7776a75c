"""Proven optima of small KV-cache instances: conflict cliques, then decision diagrams of the memory over time."""

from modelkit.problems.kv.diagram.search import NEIGHBOURHOODS, Search, SearchProgress, refusal

__all__ = ["NEIGHBOURHOODS", "Search", "SearchProgress", "refusal"]
