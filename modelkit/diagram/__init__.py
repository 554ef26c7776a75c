"""Proven optima of small KV-cache instances: conflict cliques, then decision diagrams of the memory over time."""

from modelkit.diagram.search import Progress, Search, refusal

__all__ = ["Progress", "Search", "refusal"]
