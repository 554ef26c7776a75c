"""Small instances from which mathematics is read: all lengths differ, so that no two things coincide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelkit.conformance.tiny import examples, tiny_instances
from modelkit.errors import FormulationError, ModelkitError
from modelkit.formulation import Formulation
from modelkit.instance import Instance, LinearClock, Request, Server

_SHAPES = (((0, 2, 4), (1, 6, 2), (0, 3, 7), (3, 9, 3)), ((2, 5, 3), (0, 3, 6), (0, 7, 2), (4, 2, 5)))


def _requests(rows: tuple[tuple[int, int, int], ...], late: bool) -> tuple[Request, ...]:
    return tuple(
        Request(id=f"r{i}", arrival=a if late else 0, prompt_tokens=s, output_tokens=o)
        for i, (a, s, o) in enumerate(rows, start=1)
    )


def specimens(formulation: Formulation, given: Mapping[str, Any]) -> list[Instance]:
    """Instances that the formulation takes, posed.

    Raises
    ------
    FormulationError
        It takes none of them.
    """
    linear = LinearClock(kind="linear", prefill_base_ms=30.0, prefill_per_token_ms=2.0, decode_base_ms=7.0)
    levels = LinearClock(kind="linear", prefill_levels=((9, 11.0), (17, 23.0), (40, 31.0)), decode_base_ms=7.0)
    made = [
        *(Instance(server=Server(kv_capacity_tokens=13), requests=_requests(rows, True)) for rows in _SHAPES),
        *(
            Instance(server=Server(slots=2, clock=clock), requests=_requests(rows, False))
            for clock in (linear, levels)
            for rows in _SHAPES
        ),
        *(Instance(server=Server(kv_capacity_tokens=13, slots=2), requests=_requests(rows, True)) for rows in _SHAPES),
        *(
            Instance(
                server=Server(kv_capacity_tokens=13, clock=linear.model_copy(update={"mixed": True})),
                requests=_requests(rows, True),
            )
            for rows in _SHAPES
        ),
    ]
    taken = []
    why = ""
    for n, instance in enumerate(made):
        try:
            posed = formulation.posed(instance, {**examples(formulation, instance, n), **given})
            refusal = formulation.refusal(posed)
        except ModelkitError as error:
            refusal = str(error)
        if refusal is None:
            taken.append(posed)
        why = why or refusal or ""
    taken = taken or tiny_instances(formulation, 8, given)
    if not taken:
        raise FormulationError(f"formulation {formulation.name!r} takes none of the specimens: it {why}")
    return taken
