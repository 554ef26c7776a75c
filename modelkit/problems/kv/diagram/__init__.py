"""Proven optima of small KV-cache instances: conflict cliques, then decision diagrams of the memory over time."""

from modelkit.problems.kv.diagram.search import NEIGHBOURHOODS, Progress, Search, refusal

__all__ = ["NEIGHBOURHOODS", "Progress", "Search", "refusal"]
