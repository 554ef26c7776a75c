"""The checker of one file against ``verify``: random schedules and certificates, right and altered.

``python benchmarks/checking.py [--claims N] [--from SEED]`` writes ``benchmarks/results/checking.json``: of how many
claims of each kind were accepted and refused, and on which they disagree. What is claimed is in ``tests/claims.py``. A
bound above the one that ``verify`` rounds down to, and not above the exact one, is counted apart.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from pathlib import Path

from record import keep, stamp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from claims import HOLDS, answers, claims, within_rounding

RESULTS = Path(__file__).resolve().parent / "results" / "checking.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", type=int, default=2000)
    parser.add_argument("--from", type=int, default=10_000, dest="first")
    chosen = parser.parse_args()
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    apart, disagreements, asked, seed = 0, [], 0, chosen.first
    while asked < chosen.claims:
        for claim in claims(seed):
            said, asked = answers(claim), asked + 1
            document = claim.document
            kind = "schedule" if document["schema"] == "modelkit/result/1" else document["kind"]
            kinds[kind]["asked"] += 1
            kinds[kind]["accepted" if said.checker == HOLDS else "refused"] += 1
            if said.checker == HOLDS and within_rounding(claim):
                apart += 1
            elif not said.agree:
                disagreements.append({"seed": seed, "how": claim.how, "verify": said.words, "checker": said.line})
                print(disagreements[-1])
        seed += 1
    found = {"claims": asked, "within_rounding": apart, "disagreements": disagreements}
    keep({**stamp(), **found, "kinds": {kind: dict(kinds[kind]) for kind in sorted(kinds)}}, RESULTS)
    print(f"{asked} claims, {len(disagreements)} disagreements, {apart} within rounding")


if __name__ == "__main__":
    main()
