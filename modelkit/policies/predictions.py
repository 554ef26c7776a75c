"""Prediction models: what a policy is told of output lengths that it cannot know.

==================  ==========================================================================================
model               the policy sees
==================  ==========================================================================================
``exact``           the output o
``noise:E``         o times a factor from U[1 - E, 1 + E], rounded (Jaillet et al., arXiv 2502.07115)
``interval:E``      [lower, upper] around o: o (1 - E u) and o (1 + E v), u and v from U[0, 1], rounded outwards
``class:W``         the upper end of the class of lengths, W tokens wide, that o is in
``class:A,B,...``   the upper end of o's class, for classes that end at A < B < ...; beyond the last, the last
==================  ==========================================================================================
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from modelkit.clock import MAX_TOKENS
from modelkit.errors import UsageError, did_you_mean, shown
from modelkit.instance import MAX_NAME, Instance

Ints = npt.NDArray[np.int64]

#: The models and what they take.
MODELS = {"exact": "", "noise": "an error", "interval": "a width", "class": "a width, or the ends of the classes"}


def predicted_lengths(output: Ints, model: str, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Lower and upper predictions of these outputs by a model; shape [n] [token].

    Raises
    ------
    UsageError
        There is no such model, or it does not take such a number.
    """
    name, _, rest = model.partition(":")
    if name not in MODELS:
        known = ", ".join(f"{known}:..." if takes else known for known, takes in MODELS.items())
        raise UsageError(f"unknown prediction model {shown(model)}{did_you_mean(name, MODELS)}\n  known: {known}")
    try:
        numbers = [float(part) for part in rest.split(",")] if rest else []
    except ValueError:
        numbers = [math.nan]
    if name == "exact" and not numbers:
        return output, output
    if name in ("noise", "interval") and len(numbers) == 1 and 0 <= numbers[0] <= 1:
        error = numbers[0]
        if name == "noise":
            guess = _tokens(np.rint(output * rng.uniform(1 - error, 1 + error, len(output))))
            return guess, guess
        below, above = rng.uniform(0, error, (2, len(output)))
        return _tokens(np.floor(output * (1 - below))), _tokens(np.ceil(output * (1 + above)))
    rising = all(a < b for a, b in zip([0.0, *numbers], numbers, strict=False))
    if name == "class" and numbers and rising and all(n.is_integer() and n <= MAX_TOKENS for n in numbers):
        ends = np.array(numbers, dtype=np.int64)
        if len(ends) == 1:
            upper = _tokens(-(-output // ends[0]) * ends[0])
        else:
            upper = ends[np.minimum(np.searchsorted(ends, output), len(ends) - 1)]
        return upper, upper
    allowed = {
        "exact": "exact alone",
        "noise": "noise:E with 0 <= E <= 1",
        "interval": "interval:E with 0 <= E <= 1",
        "class": "class:W, or class:A,B,... with whole numbers that increase",
    }[name]
    raise UsageError(f"prediction model {shown(model)}; allowed: {allowed}")


def with_predictions(instance: Instance, model: str, rng: np.random.Generator) -> Instance:
    """The instance with the predictions of a model in place of its own."""
    lower, upper = (end.tolist() for end in predicted_lengths(instance.arrays.output, model, rng))
    exact = model == "exact"
    return instance.replace(
        name=(instance.name + ("" if exact else f"-{model.replace(':', '').replace(',', '-')}"))[:MAX_NAME],
        description=instance.description + ("" if exact else f", predictions {model}"),
        requests=tuple(
            request.model_copy(update={"predicted_output_tokens": None if exact else a if a == b else (a, b)})
            for request, a, b in zip(instance.requests, lower, upper, strict=True)
        ),
    )


def _tokens(lengths: npt.NDArray[np.float64] | Ints) -> Ints:
    return np.clip(lengths, 1, MAX_TOKENS).astype(np.int64)
