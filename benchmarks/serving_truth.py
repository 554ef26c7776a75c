"""Bounds of serving in real time against exhaustive search on tiny instances, and against policies on larger ones.

``python benchmarks/serving_truth.py [--tiny N] [--large N]`` writes ``benchmarks/results/serving_truth.json``: how many
bounds were compared, which lie above an optimum or a policy's value, and how close the best of each kind comes. With 0
of a part its results stay as they are. What is compared is in ``tests/serving_bounds.py``.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean

from record import keep, kept, stamp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from realtime_brute_force import Question, question
from serving_bounds import Compared, against_optima, against_policies, larger_instance

RESULTS = Path(__file__).resolve().parent / "results" / "serving_truth.json"


def kinds_of(parametrised: Question) -> list[str]:
    """What an instance has of all that may be."""
    server = parametrised.instance.server
    clock = server.clock
    features = {
        "with base_ms": clock.base_ms > 0,
        "exclusive prefills": not clock.mixed,
        "levels": clock.prefill_levels is not None,
        "memory": server.kv_capacity_tokens is not None,
        "slots": server.slots is not None,
        "chunked prefill": parametrised.chunk is not None,
        "evictions": parametrised.evictions,
        "all at once": len({r.arrival for r in parametrised.instance.requests}) == 1,
    }
    return [name for name, has in features.items() if has]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", type=int, default=2000)
    parser.add_argument("--large", type=int, default=300)
    chosen = parser.parse_args()
    before = kept(RESULTS)
    found: dict[str, object] = stamp()
    for part, count, compare in (("tiny", chosen.tiny, tiny), ("large", chosen.large, large)):
        if not count:
            found[part] = before.get(part, {"instances": 0, "kinds": {}, "bounds": 0, "wrong": {}, "mean_share": {}})
            continue
        began = time.process_time()
        kinds: Counter[str] = Counter()
        shares: dict[str, list[float]] = defaultdict(list)
        bounds, wrong = 0, {}
        for seed in range(count):
            try:
                names, compared = compare(seed)
            except Exception:
                wrong[seed] = [traceback.format_exc()]
                continue
            kinds.update(names)
            bounds += compared.bounds
            for key, share in compared.shares.items():
                shares[key].append(share)
            if compared.excesses:
                wrong[seed] = compared.excesses
                print(part, seed, *compared.excesses, sep="\n  ", flush=True)
        found[part] = {
            "instances": count,
            "kinds": dict(sorted(kinds.items())),
            "bounds": bounds,
            "wrong": wrong,
            "mean_share": {key: round(mean(values), 3) for key, values in sorted(shares.items())},
            "process_cpu_s": round(time.process_time() - began),
        }
        print(f"{part}: {count:,} instances, {bounds:,} bounds, {len(wrong)} wrong; {dict(kinds)}")
    keep(found, RESULTS)


def tiny(seed: int) -> tuple[list[str], Compared]:
    """One instance against its optima."""
    parametrised = question(seed, most=5 if seed % 8 == 0 else 4)
    return kinds_of(parametrised), against_optima(parametrised, seed, relaxed=True)


def large(seed: int) -> tuple[list[str], Compared]:
    """One instance against all policies that fit it."""
    instance = larger_instance(seed)
    return kinds_of(Question(instance, None, False)), against_policies(instance, seed)


if __name__ == "__main__":
    main()
