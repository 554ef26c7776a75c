"""Named families of instances, each one function of a seed and a few options.

The same options and seed give the same instance.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from modelkit.arguments import checked_arguments
from modelkit.instance import Instance
from modelkit.io import checked
from modelkit.policies.predictions import with_predictions
from modelkit.registry import Generator
from modelkit.sources.attaching import with_drawn, with_extra, with_pause, with_replicas
from modelkit.sources.families.drawing import REGISTRY, family, timed_instance
from modelkit.sources.families.slots import GSM8K_CLOCK, output_lengths, slot_instance

__all__ = [
    "GSM8K_CLOCK",
    "families",
    "family",
    "generate",
    "output_lengths",
    "slot_instance",
    "timed_instance",
]


def families() -> dict[str, Generator]:
    """All families by name."""
    return REGISTRY.entries()


@checked_arguments
def generate(
    name: str,
    *,
    predictions: str | None = None,
    extra: dict[str, Any] | None = None,
    attributes: dict[str, Any] | None = None,
    replicas: int = 1,
    pause: str | None = None,
    **options: Any,
) -> Instance:
    """An instance of a family.

    Parameters
    ----------
    predictions
        Model of what policies see of output lengths (`modelkit.policies.predictions`), such as ``noise:0.2``; drawn
        from the seed of the family. None: what the family says, mostly the truth.
    extra
        Data of one's own that the instance carries, by name.
    attributes
        Attributes of requests to draw, from the seed of the family: for each name, such as ``class``, values and their
        weights, ``{"class": {"chat": 3, "code": 1}}``.
    replicas
        Servers alike that serve the requests.
    pause
        Where the server keeps the tokens of paused requests, ``held`` or ``swapped``; None: it pauses nobody.

    Raises
    ------
    UsageError
        No such family, option or prediction model.
    InputError
        An option is out of its range or of another type.
    """
    generator = REGISTRY[name]
    options = generator.checked(options, f"generate {name}")
    instance = checked(f"generate {name}", lambda: generator.make(**options))
    seed = options.get("seed", 0)
    instance = with_pause(with_replicas(instance, replicas), pause)
    instance = with_extra(with_drawn(instance, attributes or {}, seed), extra or {})
    if predictions is None:
        return instance
    return with_predictions(instance, predictions, np.random.default_rng([seed, 1]))
