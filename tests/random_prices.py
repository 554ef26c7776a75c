"""Random prices on time that verification has to accept: whatever they are, what they prove is a bound."""

from __future__ import annotations

import numpy as np

import modelkit as mk
from modelkit.certificate import ServingPrices
from modelkit.verify.serving_costs import COSTS_PER_MS, ServingCosts


def random_prices(instance: mk.Instance, rng: np.random.Generator, buckets: int = 40) -> ServingPrices:
    """Prices in buckets of any length, of the size that latencies have, covered by what iterations cost."""
    costs = ServingCosts.of(instance)
    n, unit = len(costs.prompt), 2 ** int(rng.integers(0, 21))
    start = int(rng.integers(0, min(costs.arrival) + 1)) if rng.random() < 0.3 else min(costs.arrival)
    span = max(costs.arrival) - start + sum(costs.residence) / 2**20
    length = max(1, int(span * rng.uniform(0.01, 3) / buckets))
    buckets = int(rng.integers(0, buckets))
    server = np.floor(rng.uniform(0, n * rng.uniform(0, 2), buckets) * unit).astype(np.int64)
    if rng.random() < 0.7:
        server = np.sort(server)[::-1]
    first = [int(rng.integers(0, buckets + 1)) for _ in range(n)]
    if rng.random() < 0.7:
        first = [min(buckets, (a - start) // length) for a in costs.arrival]
    reach = [int(rng.integers(0, buckets - b + 1)) for b in first]
    rows = []
    for fixed in (costs.base + costs.decode_base, costs.prefill_base):
        weights = rng.gamma(0.3, 1, (2 + n, buckets)) * rng.gamma(0.5, 1, (2 + n, 1))
        for i in range(n):
            weights[2 + i, : first[i]] = 0
            weights[2 + i, first[i] + reach[i] :] = 0
        shares = weights / np.maximum(weights.sum(axis=0), 1e-9) * rng.choice([1.0, rng.random()])
        allowed = [fixed * int(pi) // COSTS_PER_MS for pi in server]
        rows.append(
            [[int(share * most * (1 - 1e-12)) for share, most in zip(row, allowed, strict=True)] for row in shares]
        )
    decoding, prompts = (
        [row[first[i] : first[i] + reach[i]] for i, row in enumerate(some[2:])] for some in rows
    )  # fmt: skip
    return ServingPrices(
        start=start, bucket=length, denominator=unit, server=server.tolist(), memory=rows[0][0], slots=rows[0][1],
        prompt_memory=rows[1][0], prompt_slots=rows[1][1], first=first, decoding=decoding, prompts=prompts,
    )  # fmt: skip
