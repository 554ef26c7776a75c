"""Small instances from which mathematics is read: all lengths differ, so that no two things coincide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelkit.authoring.check.tiny_instances import examples
from modelkit.errors import FormulationError, ModelkitError
from modelkit.formulation.formulation import Formulation
from modelkit.instance import Instance, LinearClock, Pause, Prefix, PrefixCache, Request, Server

_SHAPES = (((0, 2, 4), (1, 6, 2), (0, 3, 7), (3, 9, 3)), ((2, 5, 3), (0, 3, 6), (0, 7, 2), (4, 2, 5)))
#: For formulations that take only short prompts.
_SHORT = (((0, 2, 4), (1, 3, 2), (0, 2, 3), (3, 3, 5)), ((2, 3, 3), (0, 2, 6), (0, 3, 2), (4, 2, 5)))


_OTHERS = (((1, 3, 5), (0, 5, 1), (2, 1, 3)),)
_OTHERS_SHORT = (((1, 2, 5), (0, 3, 1), (2, 1, 3)),)

_Shapes = tuple[tuple[tuple[int, int, int], ...], ...]


def _requests(rows: tuple[tuple[int, int, int], ...], apart: float) -> tuple[Request, ...]:
    mark = "r" if len(rows) == len(_SHAPES[0]) else "other"
    return tuple(
        Request(id=f"{mark}{i}", arrival=apart * a, prompt_tokens=s, output_tokens=o)
        for i, (a, s, o) in enumerate(rows, start=1)
    )


def samples(formulation: Formulation, given: Mapping[str, Any]) -> list[Instance]:
    """Instances that the formulation takes, with parameters.

    Raises
    ------
    FormulationError
        It takes none of them.
    """
    return _take(formulation, given, (_SHAPES, _SHORT))


def others(formulation: Formulation, given: Mapping[str, Any]) -> list[Instance]:
    """Other instances, on which what was read is verified: other numbers of requests, names, lengths and limits."""
    try:
        return _take(formulation, given, (_OTHERS, _OTHERS_SHORT))
    except FormulationError:
        return []


def _take(formulation: Formulation, given: Mapping[str, Any], choices: tuple[_Shapes, ...]) -> list[Instance]:
    whys: list[str] = []
    for shapes in choices:
        taken = []
        for n, instance in enumerate(_instances(shapes)):
            try:
                parametrised = formulation.with_parameters(instance, {**examples(formulation, instance, n), **given})
                refusal = formulation.refusal(parametrised)
            except ModelkitError as error:
                refusal = str(error)
            if refusal is None:
                taken.append(parametrised)
            else:
                whys.append(refusal)
        if taken:
            return taken
    raise FormulationError(f"formulation {formulation.name!r} takes none of the sample instances: it {whys[0]}")


def _instances(shapes: _Shapes) -> list[Instance]:
    """The same requests under each clock."""
    linear = LinearClock(kind="linear", prefill_base_ms=30.0, prefill_per_token_ms=2.0, decode_base_ms=7.0)
    levels = LinearClock(kind="linear", prefill_levels=((9, 11.0), (17, 23.0), (40, 31.0)), decode_base_ms=7.0)
    parts = {"base_ms": 5.0, "decode_per_request_ms": 3.0, "decode_per_kv_token_ms": 0.5}
    mixed = linear.model_copy(update={"mixed": True, **parts})
    servers = [
        (Server(kv_capacity_tokens=13), 1),
        (Server(slots=2, clock=linear), 0),
        (Server(slots=2, clock=levels), 0),
        (Server(kv_capacity_tokens=13, slots=2), 1),
        (Server(kv_capacity_tokens=13, clock=mixed), 0.02),
        (Server(kv_capacity_tokens=17, slots=2, clock=mixed), 0.02),
        (Server(kv_capacity_tokens=13, replicas=3), 1),
        (Server(kv_capacity_tokens=17, replicas=2, slots=2), 1),
        (Server(kv_capacity_tokens=13, pause=Pause(keep="held")), 1),
        (Server(kv_capacity_tokens=13, pause=Pause(keep="swapped")), 1),
    ]
    plain = [Instance(server=s, requests=_requests(rows, apart)) for s, apart in servers for rows in shapes]
    return plain + [_sharing(rows) for rows in shapes]


def _sharing(rows: tuple[tuple[int, int, int], ...]) -> Instance:
    """The same requests under the unit clock, with prefixes of two groups in turn, all of other lengths."""
    requests = tuple(
        r.model_copy(update={"prefix": Prefix(group="gh"[i % 2], tokens=max(1, r.prompt_tokens - i - 1))})
        for i, r in enumerate(_requests(rows, 1))
    )
    return Instance(server=Server(kv_capacity_tokens=13, prefix_cache=PrefixCache()), requests=requests)
