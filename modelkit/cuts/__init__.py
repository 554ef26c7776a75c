"""Valid rows for the program over starts of the KV-cache problem, found where a fractional point violates them."""

from modelkit.cuts.conflict_cliques import conflict, conflict_cliques
from modelkit.cuts.peak_cliques import peak_cliques
from modelkit.cuts.rows import Candidates, Cut, Family, Floats, Ints
from modelkit.cuts.separation import Separation
from modelkit.cuts.triples import triples

__all__ = [
    "Candidates",
    "Cut",
    "Family",
    "Floats",
    "Ints",
    "Separation",
    "conflict",
    "conflict_cliques",
    "peak_cliques",
    "triples",
]
