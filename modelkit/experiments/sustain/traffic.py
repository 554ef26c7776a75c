"""The requests that a server is tried with: a draw for each seed, at any rate, with any memory or number of slots.

The same seed gives the same lengths in the same order and, at a rate r, the same arrivals divided by r. So what is seen
at two rates differs by the rate alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from modelkit.errors import UsageError
from modelkit.instance import Instance

#: What may be looked for: the largest rate, the least memory, the fewest slots.
Over = Literal["rate", "kv_capacity", "slots"]
#: Poisson arrivals, or those of the instance, faster or slower.
Arrivals = Literal["poisson", "own"]
#: Requests that a family draws.
REQUESTS = 3000
#: Decimals of arrivals [s].
_NANOSECONDS = 9


@dataclass(frozen=True)
class Traffic:
    """Draws of requests, one for each seed, with their arrivals at a rate of 1 request/s.

    Parameters
    ----------
    draws
        Instances by seed.
    times
        Arrivals at a rate of 1/s by seed, shape [n] [s].
    rate
        At which requests arrive where that is not what is looked for [1/s].
    """

    name: str
    draws: Mapping[int, Instance]
    times: Mapping[int, np.ndarray[Any, Any]]
    rate: float | None
    arrivals: Arrivals

    @property
    def requests(self) -> int:
        """Requests of all draws."""
        return sum(len(draw.requests) for draw in self.draws.values())

    @property
    def first(self) -> Instance:
        """The draw of the first seed."""
        return next(iter(self.draws.values()))

    def at(self, over: Over, value: float, seed: int) -> Instance:
        """The draw of a seed at a rate, or with so much memory or so many slots.

        Raises
        ------
        InfeasibleError
            Some request does not fit.
        """
        draw, rate = self.draws[seed], value if over == "rate" else self.rate
        assert rate is not None
        arrivals = np.round(self.times[seed] / rate, _NANOSECONDS).tolist()
        instance = self.served(draw, over, value).replace(
            name=f"{self.name}-{over}{value:.6g}-s{seed}",
            requests=tuple(r.model_copy(update={"arrival": at}) for r, at in zip(draw.requests, arrivals, strict=True)),
        )
        instance.check_fits()
        return instance

    @staticmethod
    def served(instance: Instance, over: Over, value: float) -> Instance:
        """The instance with so much memory or so many slots."""
        if over == "rate":
            return instance
        key = "kv_capacity_tokens" if over == "kv_capacity" else "slots"
        return instance.replace(server=instance.server.model_copy(update={key: int(value)}))

    def least(self, over: Over) -> int:
        """The least memory that holds every request alone, or one slot."""
        return max(int(draw.arrays.peak.max()) for draw in self.draws.values()) if over == "kv_capacity" else 1

    def most(self, over: Over) -> int:
        """Memory that holds all requests of a draw at once, or a slot for each: more changes nothing."""
        draws = self.draws.values()
        return max(int(d.arrays.peak.sum()) if over == "kv_capacity" else len(d.requests) for d in draws)


def traffic(
    source: Instance | str,
    seeds: tuple[int, ...],
    *,
    requests: int | None = None,
    arrivals: Arrivals = "poisson",
    rate: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> Traffic:
    """Draws from an instance, whose requests come in another order for each seed, or from a family.

    Parameters
    ----------
    requests
        Of each draw; None: all of an instance, 3,000 of a family.
    arrivals
        ``poisson``, or ``own``: those of the instance in their order, or of the family, faster or slower.
    rate
        Of arrivals, where memory or slots are looked for; None: that of the instance.
    options
        Of the family, such as its server.

    Raises
    ------
    UsageError
        The instance is not in real time, or has no arrivals of its own.
    """
    drawn = {seed: _draw(source, seed, requests, arrivals, options or {}) for seed in seeds}
    times, rates = {}, []
    for seed, draw in drawn.items():
        own, n = np.asarray(draw.arrays.arrival, dtype=float), len(draw.requests)
        span = float(own.max() - own.min())
        rates.append(n / span if span else None)
        if arrivals == "own":
            if not span:
                raise UsageError("arrivals 'own': all requests arrive together, which has no rate; allowed: poisson")
            times[seed] = (own - own.min()) * (n / span)
        else:
            times[seed] = np.cumsum(np.random.default_rng([seed, 17]).exponential(1.0, n))
    name = source if isinstance(source, str) else source.name[:200] or "instance"
    return Traffic(name, drawn, times, rate or rates[0], arrivals)


def _draw(
    source: Instance | str, seed: int, requests: int | None, arrivals: Arrivals, options: Mapping[str, Any]
) -> Instance:
    if isinstance(source, str):
        from modelkit.sources.families import generate

        draw = generate(source, seed=seed, requests=requests or REQUESTS, **options)
    else:
        draw = source
        if arrivals == "poisson":
            order = np.random.default_rng([seed, 16]).permutation(len(source.requests))[:requests]
            draw = source.replace(requests=tuple(source.requests[i] for i in order.tolist()))
        elif requests is not None:
            draw = source.replace(requests=source.requests[:requests])
    if draw.is_unit:
        raise UsageError(
            "service levels are in ms, for the linear clock; this has the unit clock"
            + ("; --server NAME gives a family a server in real time" if isinstance(source, str) else "")
        )
    return draw
