"""Instances of a hand's size, for holding formulations against brute force."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count, islice
from typing import Any

import numpy as np

from modelkit.errors import FormulationError, ModelkitError
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.parameters import Parameter
from modelkit.formulation.shapes import KEY, LIST, REQUEST, group_of
from modelkit.instance import Instance, LinearClock, Pause, Prefix, PrefixCache, Request, Server
from modelkit.requests import ATTRIBUTES
from modelkit.sources.families import generate

#: Draws of each kind before it is given up because the formulation takes none of them.
DRAWS = 40


def unit_instance(seed: int, requests: int, *, slots: int | None = None) -> Instance:
    """Up to four short requests under the unit clock.

    In every other instance all arrive at once; every fourth has much memory, every eighth no limit.
    """
    rng = np.random.default_rng([1, seed])
    capacity = int(rng.integers(5, 9)) + (6 if seed % 4 == 3 else 0)
    rows = []
    for i in range(requests):
        prompt = int(rng.integers(1, 4))
        output = int(rng.integers(1, min(5, capacity - prompt) + 1))
        rows.append(
            Request(
                id=f"q{i}", arrival=int(rng.integers(0, 3)) * (1 - seed % 2), prompt_tokens=prompt, output_tokens=output
            )
        )
    server = Server(kv_capacity_tokens=None if seed % 8 == 7 else capacity, slots=slots)
    return Instance(name=f"tiny-{seed}", server=server, requests=tuple(rows))


def sequential_instance(seed: int, requests: int) -> Instance:
    """Requests that are all there at once and of which no two fit together: the longest horizon there is."""
    rng = np.random.default_rng([2, seed])
    rows = tuple(Request(id=f"q{i}", prompt_tokens=3, output_tokens=int(rng.integers(1, 4))) for i in range(requests))
    return Instance(name=f"tiny-{seed}", server=Server(kv_capacity_tokens=6), requests=rows)


def replica_instance(seed: int, requests: int) -> Instance:
    """Requests under the unit clock on two replicas or three; every third with a slot or two on each."""
    slots = 1 + seed % 2 if seed % 3 == 2 else None
    drawn = unit_instance(seed, requests, slots=slots)
    return drawn.replace(server=drawn.server.model_copy(update={"replicas": 2 + seed % 4 // 3}))


def slot_instance(seed: int, requests: int) -> Instance:
    """Up to three requests on two slots; every other one with levels, every third with a base of every iteration."""
    drawn = generate("slot-synthetic", seed=seed, requests=requests, slots=2, levels=seed % 2 == 1)
    short = tuple(r.model_copy(update={"output_tokens": 1 + r.output_tokens % 5}) for r in drawn.requests)
    clock = drawn.server.clock.model_copy(update={"base_ms": 3.0 if seed % 3 == 1 else 0.0})
    server = drawn.server.model_copy(update={"clock": clock})
    return drawn.replace(name=f"tiny-{seed}", server=server, requests=short)


def mixed_instance(seed: int, requests: int) -> Instance:
    """Requests under the linear clock with prompts processed beside decoding, and arrivals amid iterations.

    Every other one has a part of every iteration, every third a cost of held tokens, every fourth slots.
    """
    drawn = unit_instance(seed, requests)
    clock = LinearClock(
        kind="linear",
        mixed=True,
        base_ms=5.0 * (seed % 2),
        prefill_base_ms=10.0,
        prefill_per_token_ms=1.0,
        decode_base_ms=20.0 - 15.0 * (seed % 2),
        decode_per_request_ms=3.0 * (seed % 3 > 0),
        decode_per_kv_token_ms=0.5 * (seed % 3 == 1),
    )
    slots = 2 if seed % 4 == 2 else None
    rows = tuple(r.model_copy(update={"arrival": r.arrival * 0.017}) for r in drawn.requests)
    server = Server(kv_capacity_tokens=drawn.server.kv_capacity_tokens, slots=slots, clock=clock)
    return drawn.replace(server=server, requests=rows)


def sharing_instance(seed: int, requests: int) -> Instance:
    """Requests under the unit clock with prefixes of up to two groups, and room for few; every third has slots."""
    rng = np.random.default_rng([3, seed])
    drawn = unit_instance(seed, requests, slots=2 if seed % 3 == 2 else None)
    rows = []
    for i, r in enumerate(drawn.requests):
        prefix = Prefix(group="h" if i and rng.random() < 0.2 else "g", tokens=1 + int(rng.integers(0, 3)))
        prompt = prefix.tokens + int(rng.integers(0, 2))
        rows.append(r.model_copy(update={"prompt_tokens": prompt, "prefix": prefix}))
    peak = max(r.prompt_tokens + r.output_tokens for r in rows)
    server = drawn.server.model_copy(
        update={"kv_capacity_tokens": peak + seed % 3, "prefix_cache": PrefixCache(keep=seed % 2 == 1)}
    )
    return drawn.replace(server=server, requests=tuple(rows))


def pausing_instance(seed: int, requests: int) -> Instance:
    """Up to three requests of up to three tokens, on a server that pauses them; every third has slots."""
    drawn = unit_instance(seed, min(requests, 3), slots=2 if seed % 3 == 2 else None)
    rows = tuple(r.model_copy(update={"output_tokens": min(r.output_tokens, 3)}) for r in drawn.requests)
    pause = Pause(keep="held" if seed % 2 else "swapped")
    return drawn.replace(server=drawn.server.model_copy(update={"pause": pause}), requests=rows)


def _kinds(formulation: Formulation, seed: int) -> Iterator[Instance]:
    requests = 3 - seed // 4 % 3  # the first are the largest
    own_rules = formulation.admissible or formulation.value  # brute force asks them for every schedule
    if seed % 5 == 2:
        yield sequential_instance(seed, requests)
    yield unit_instance(seed, requests if own_rules else 4 - seed // 4 % 4)
    yield slot_instance(seed, requests)
    yield unit_instance(seed, requests, slots=2)
    yield mixed_instance(seed, requests)
    yield sharing_instance(seed, requests)
    yield replica_instance(seed, requests)
    yield pausing_instance(seed, requests)


def tiny_instances(formulation: Formulation, wanted: int, given: Mapping[str, Any]) -> list[Instance]:
    """The first ``wanted`` that the formulation takes, with its parameters; fewer when it takes hardly any.

    Parameters that are not ``given`` take their examples in turn.
    """
    for parameter in formulation.parameters:
        sure = parameter.examples or parameter.default is not None or parameter.optional or parameter.name in given
        if not sure:
            raise FormulationError(
                f"formulation {formulation.name!r} needs the parameter {parameter.name!r}, which has no value to check"
                f" with; give it examples=(...) or a default, or check with --param {parameter.name}=..."
            )

    def taken() -> Iterator[Instance]:
        found = 0
        for seed in count():
            if found == 0 and seed == DRAWS:
                return
            for drawn in _kinds(formulation, seed):
                instance = _grouped(formulation, drawn)
                try:
                    parametrised = formulation.with_parameters(
                        instance, {**examples(formulation, instance, seed), **given}
                    )
                    accepted = formulation.refusal(parametrised) is None
                except ModelkitError:
                    if given:  # the values may not suit the instances; what is wrong with them is said elsewhere
                        continue
                    raise
                if accepted:
                    found += 1
                    yield parametrised.replace(name=f"{instance.name}")
                    break

    return list(islice(taken(), wanted))


def examples(formulation: Formulation, instance: Instance, seed: int) -> dict[str, Any]:
    """An example for each parameter that has some; for each request another, and for some none where that may be."""
    return {
        parameter.name: _example(parameter, parameter.axes, instance, seed)
        for parameter in formulation.parameters
        if parameter.examples
    }


def _example(parameter: Parameter, axes: tuple[str, ...], instance: Instance, seed: int) -> Any:
    """An example for what these axes of a parameter are; lists and maps are examples as a whole."""
    if not axes or axes[0] in (LIST, KEY):
        return parameter.examples[seed % len(parameter.examples)]
    members = instance.index if axes[0] == REQUEST else dict.fromkeys(group_of(instance, axes[0]).values())
    return {
        member: _example(parameter, axes[1:], instance, seed + i)
        for i, member in enumerate(members)
        if not (parameter.optional and (seed + i) % 4 == 3)
    }


def _grouped(formulation: Formulation, instance: Instance) -> Instance:
    """The instance with its requests in the groups that parameters are by: every other one in the first of two."""
    groups = {axis for parameter in formulation.parameters for axis in parameter.axes} - {REQUEST, LIST, KEY}
    if not groups:
        return instance
    rows = []
    for i, request in enumerate(instance.requests):
        said = {group: f"{group}-{'ab'[i % 2]}" for group in sorted(groups)}
        own = {field: said.pop(key) for field, key in ATTRIBUTES.items() if key in said}
        rows.append(request.model_copy(update={**own, "extra": said or None}))
    return instance.replace(requests=tuple(rows))


def growing(instance: Instance, requests: int) -> Instance:
    """A larger instance of the same kind: ``requests`` requests of the same lengths, the same server.

    Shapes are those of ``instance`` in turn, arrivals are spread evenly, so that the horizon grows in proportion.
    """
    rows = instance.requests
    late, apart = max(r.arrival for r in rows) > 0, 2 if instance.is_unit else 0.034
    made = tuple(
        rows[i % len(rows)].model_copy(update={"id": f"q{i}", "arrival": apart * (i // len(rows)) if late else 0})
        for i in range(requests)
    )
    return instance.replace(name=f"{requests} requests", requests=made, extra={})
