"""What families are made of: their registry, checks of options, lengths and arrivals, instances from columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from modelkit.errors import Fault, InputError, shown
from modelkit.instance import Instance, Request, Server
from modelkit.registry import Generators

Ints = npt.NDArray[np.int64]

REGISTRY = Generators(
    "family", modules=[f"modelkit.sources.families.{module}" for module in ("kv", "prefixes", "slots")]
)
family = REGISTRY.register

#: Largest value of an option; of any other a billion.
_MOST = {"requests": 1e6, "slots": 1e6, "kv_capacity": 1e12, "seed": float("inf")}


def require(options: Mapping[str, Any], **least: float) -> None:
    """Refuse options below their least value or beyond all reason, all at once."""
    faults = []
    for name, bound in least.items():
        value, most = options[name], _MOST.get(name, 1e9)
        if value is not None and not bound <= value <= most:
            allowed = f"{bound:g} or more" if not value >= bound else f"at most {most:,.0f}"
            faults.append(Fault(f"--{name.replace('_', '-')}", f"found {shown(value)}; allowed: {allowed}"))
    if faults:
        raise InputError("generate", faults)


def lognormal(rng: np.random.Generator, n: int, *, mean: float, median: float) -> Ints:
    """Whole lengths, at least 1, from the lognormal distribution with this mean and median; shape [n]."""
    sigma = np.sqrt(2 * np.log(mean / median))
    return whole_lengths(rng.lognormal(np.log(median), sigma, n))


def whole_lengths(lengths: npt.NDArray[np.float64]) -> Ints:
    """Lengths as whole tokens, at least 1."""
    return np.maximum(1, np.rint(lengths)).astype(np.int64)


def poisson_times(rng: np.random.Generator, n: int, rate: float) -> npt.NDArray[np.float64]:
    """Times of the first n events of a Poisson process; all 0 when the rate is 0."""
    return np.cumsum(rng.exponential(1 / rate, n)) if rate else np.zeros(n)


def gamma_times(rng: np.random.Generator, n: int, rate: float, variation: float) -> npt.NDArray[np.float64]:
    """Times of the first n events with gaps from a gamma distribution, of this coefficient of variation."""
    if variation == 1:
        return poisson_times(rng, n, rate)
    shape = variation**-2
    return np.cumsum(rng.gamma(shape, 1 / (shape * rate), n)) if rate else np.zeros(n)


def unit_instance(
    name: str, source: str, description: str, *, capacity: int, arrival: Ints, prompt: Ints, output: Ints
) -> Instance:
    """Instance under the unit clock, from columns."""
    rows = zip(arrival.tolist(), prompt.tolist(), output.tolist(), strict=True)
    return Instance(
        name=name,
        description=description,
        source=source,
        server=Server(kv_capacity_tokens=capacity),
        requests=tuple(
            Request(id=f"r{i}", arrival=a, prompt_tokens=s, output_tokens=o)
            for i, (a, s, o) in enumerate(rows, start=1)
        ),
    )


def timed_instance(
    name: str,
    source: str,
    description: str,
    server: Server,
    *,
    prompt: Ints,
    output: Ints,
    predicted: Ints | None = None,
    arrival: npt.NDArray[np.float64] | None = None,
) -> Instance:
    """Instance under the linear clock: all requests known at 0, or arriving at these seconds."""
    guesses = [None] * len(output) if predicted is None else predicted.tolist()
    seconds = [0.0] * len(output) if arrival is None else arrival.tolist()
    return Instance(
        name=name,
        description=description,
        source=source,
        server=server,
        requests=tuple(
            Request(id=f"r{i}", arrival=a, prompt_tokens=s, output_tokens=o, predicted_output_tokens=p)
            for i, (a, s, o, p) in enumerate(
                zip(seconds, prompt.tolist(), output.tolist(), guesses, strict=True), start=1
            )
        ),
    )
