"""Valid rows for the program over starts of the KV-cache problem, found where a fractional point violates them.

Families: conflict cliques (any two members exceed the memory) and triples (any three exceed it). Each works by itself,
and its proof is in its module.

Measured at the root (mean gap to the best schedule over three instances of kv-synthetic, one core of a busy machine;
conflict cliques for 12 s or until none is found, then at most 12 s with one family more;
milliseconds of a call):

===  =========  =======  =============  =================  ==========  ========
n    no cuts    cliques  + peak         + triples          + cycles    + energy
===  =========  =======  =============  =================  ==========  ========
12   20.8 %     5.8 %    5.7 % (1 ms)   3.8 % (29 ms)      5.8 %       5.7 %
16   26.5 %     9.7 %    9.6 % (1 ms)   8.8 % (134 ms)     9.7 %       9.6 %
===  =========  =======  =============  =================  ==========  ========

With n = 20 the cliques by themselves take longer than this (11 to 12 % after 24 s with every family).

Triples are worth their time. Peak cliques are cheap but add little. Odd cycles of the conflict graph find nothing once
its cliques hold, and energetic reasoning over windows adds no more than peak cliques do: the code of these three is
gone, their figures stay here.

In the tree (`benchmarks/branch_and_cut.py`, 60 s, three instances each): with n = 12 SCIP with these rows in the tree
ends at 0.3 % against 0.4 % with those of the root only, HiGHS at 0.6 %, two of three proven; a branch and cut of our
own proves all in 14 s. With n = 16 it ends at 4.0 %, SCIP at 5.1 % in the tree and 4.9 % at the root, HiGHS at 5.5 %.
The search of `modelkit.problems.kv.diagram`, which needs no cuts, proves all of either size in a few seconds.
"""

from modelkit.problems.kv.cuts.conflict_cliques import conflict, conflict_cliques
from modelkit.problems.kv.cuts.rows import Candidates, Cut, Family, Floats, Ints, find_first
from modelkit.problems.kv.cuts.separation import Separation
from modelkit.problems.kv.cuts.triples import triples

__all__ = [
    "Candidates",
    "Cut",
    "Family",
    "Floats",
    "Ints",
    "Separation",
    "conflict",
    "conflict_cliques",
    "find_first",
    "triples",
]
