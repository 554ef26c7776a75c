"""What local searches over starts draw when requests that were taken out are put back."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelkit.runtime.kernel import kernel


@kernel
def draw_keys(out: Any, old: Any, count: int, weight: Any, blur: float, key: Any, rng: Any) -> None:
    """In which order the ``count`` requests in ``out`` are put back: by volume, by start or at random, in ``key``."""
    mode = rng.random()
    for q in range(count):
        if mode < 0.4:
            key[q] = weight[out[q]] + 0.5 * rng.normal()
        elif mode < 0.8:
            key[q] = old[q] + blur * rng.normal()
        else:
            key[q] = rng.random()
    if rng.random() < 0.5:
        key[0] = -np.inf


@kernel
def put_off(k: int, old: int, output: int, rng: Any) -> int:
    """From which round on a start is looked for that was ``old``: now and then later than k."""
    luck = rng.random()
    if luck < 0.05:
        return k + int(rng.integers(0, 4))
    if luck < 0.15:
        return max(k, old - int(output * rng.random()))
    return k
