"""Parameters of formulation variants: declared once, given on the command line or by the instance, checked.

A formulation declares what it takes as `Parameter` objects. Values come from ``--param name=value``, else from the
instance's ``extra`` and that of its requests, else from the default; the formulation's functions find all of them in
``instance.extra``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modelkit.errors import Fault, InputError, UsageError, did_you_mean, shown
from modelkit.formulation.shapes import KEY, LIST, REQUEST, Resolution
from modelkit.instance import Instance
from modelkit.requests import ATTRIBUTES

_WORDS: dict[type, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_MEMBERS = {REQUEST: "request ids", KEY: "names"}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """What a formulation takes: one value, a list, a map, or one for each request, group of requests or pair.

    Parameters
    ----------
    name
        A Python name; as users write it.
    doc
        What it means, ending in its unit: ``requests in progress at once [request]``.
    kind
        ``int``, ``float``, ``str`` or ``bool``: of each value.
    least, most
        Range of numbers, both ends allowed; None for no end.
    choices
        The texts allowed; none: any.
    by
        What there is a value for: ``"request"``; a group of requests, such as ``"class"``, ``"session"`` or any
        per-request datum of the instance's own; ``"list"`` by position; ``"key"`` by any name. Several for more: the
        pairs of requests are ``("request", "request")``, a list for each request ``("request", "list")``.
    default
        None: it must be given. With ``by``: what holds for those that are not named; None there too.
    per_request
        The same as ``by="request"``.
    optional
        Those that are not named, or the one value, may have none.
    examples
        Values that ``modelkit check`` tries; some should bind on instances of three requests. For each request or
        group it takes one of them, lists and maps are given whole.

    Notes
    -----
    Of each request or group: an object from its name to the value, or one value for all; of each request a list in
    the instance's order too. A number may come with its unit, ``"5 ms"`` or ``{"value": 5, "unit": "ms"}``: it must be
    that of ``doc``.
    """

    name: str
    doc: str
    kind: type[int] | type[float] | type[str] | type[bool] = int
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    by: str | tuple[str, ...] = ()
    default: Any = None
    per_request: bool = False
    optional: bool = False
    examples: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        return f"Parameter({self.name!r}, {self.allowed})"

    @property
    def axes(self) -> tuple[str, ...]:
        """What there is a value for, the outermost first; none of one value."""
        by = (self.by,) if isinstance(self.by, str) else tuple(self.by)
        return by or (("request",) if self.per_request else ())

    @property
    def allowed(self) -> str:
        """The values allowed, in words."""
        if self.axes in ((), (REQUEST,)):
            return self.allowed_value + (", or an object from request ids to such values" if self.axes else "")
        words = self.allowed_value
        for axis in reversed(self.axes):
            members = _MEMBERS.get(axis, f"each {axis} of requests")
            words = f"a list with {words} in each place" if axis == LIST else f"an object from {members} to {words}"
        return words

    @property
    def allowed_value(self) -> str:
        """What one value may be, in words."""
        if self.choices:
            return " or ".join(map(repr, self.choices))
        words = _WORDS[self.kind]
        if self.least is not None and self.most is not None:
            words += f" from {self.least:g} to {self.most:g}"
        elif self.least is not None:
            words += f", {self.least:g} or more"
        elif self.most is not None:
            words += f", {self.most:g} or less"
        return words

    def fault(self, value: object) -> str | None:
        """Why one value is not allowed, or None."""
        if self.kind in (str, bool):
            right = isinstance(value, self.kind) and (not self.choices or value in self.choices)
        else:
            right = isinstance(value, int | float) and not isinstance(value, bool)
            if right and self.kind is int:
                right = float(value).is_integer()  # type: ignore[arg-type]
            if right:
                number = float(value)  # type: ignore[arg-type]
                least, most = (-1e12 if self.least is None else self.least), (1e12 if self.most is None else self.most)
                right = least <= number <= most
        if right:
            return None
        allowed = self.allowed if len(self.axes) <= 1 else self.allowed_value
        return f"found {shown(value)}; allowed: {allowed}"

    def resolved(
        self,
        value: Any,
        instance: Instance | None,
        path: str,
        faults: list[Fault],
        own: Mapping[str, tuple[Any, str]] | None = None,
    ) -> Any:
        """The value in its own type: a number or text, a list, or a dictionary by request or group.

        Parameters
        ----------
        instance
            Whose requests and groups it names; None: they are not looked at.
        own
            What requests say of themselves, by id: the value and its place. It counts before ``value``.
        """
        unit = unit_at_end(self.doc)
        if isinstance(value, dict) and value.keys() == {"value", "unit"}:
            if value["unit"] != unit:
                faults.append(Fault(f"{path}.unit", f"found {shown(value['unit'])}; allowed: {unit!r}"))
            value, path = value["value"], f"{path}.value"
        if value is None and self.optional and not self.axes:
            return None
        return Resolution(self, unit, instance, faults).at(value, self.axes, path, own or {})


def unit_at_end(doc: str) -> str | None:
    """The unit in brackets that words end in: ``$`` of ``cost of the energy [$]``."""
    found = re.search(r"\[([^\[\]]{1,40})\]$", doc.strip())
    return found[1] if found and found[1].isprintable() else None


def settle(parameters: Iterable[Parameter], instance: Instance, given: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Value of every parameter: what is ``given``, else the instance's ``extra``, else the default.

    Raises
    ------
    UsageError
        ``given`` names a parameter that ``owner`` does not have, or one without default is given nowhere.
    InputError
        Values of the wrong type or out of range, or a key of ``extra`` that is nearly a parameter's name.
    """
    known = {p.name: p for p in parameters}
    for name in given:
        if name not in known:
            words = f"; it takes {', '.join(known)}" if known else "; it takes none"
            raise UsageError(f"formulation {owner!r} has no parameter {name!r}{did_you_mean(name, known) or words}")
    faults: list[Fault] = []
    said = places_in_extra(instance)
    free = [name for name in known if name not in said]
    for key, place in said.items():
        if key not in known and (near := did_you_mean(key, free)):
            faults.append(Fault(place, f"formulation {owner!r} has no such parameter{near}"))
    values: dict[str, Any] = {}
    for name, parameter in known.items():
        own = dict(_own(parameter, instance)) if name not in given else {}
        if own and parameter.axes[:1] != (REQUEST,):
            place = next(iter(own.values()))[1]
            faults.append(Fault(place, f"{name} is no value of each request; it is {parameter.allowed}"))
        elif name in given:
            values[name] = parameter.resolved(given[name], instance, f"--param {name}", faults)
        elif name in instance.extra or own:
            said_of_all = instance.extra.get(name, parameter.default)
            values[name] = parameter.resolved(said_of_all, instance, f"$.extra.{name}", faults, own)
        elif parameter.default is not None or parameter.optional:
            values[name] = parameter.resolved(parameter.default, instance, f"default of {name}", faults)
        elif not faults:
            raise UsageError(
                f"formulation {owner!r} needs the parameter {name!r}, {parameter.doc}: {parameter.allowed}\n"
                f'  give --param {name}=..., or {{"extra": {{"{name}": ...}}}} in the instance'
            )
    if faults:
        raise InputError(f"parameters of {owner!r}", faults)
    return values


def places_in_extra(instance: Instance) -> dict[str, str]:
    """Where each name of ``extra`` stands, that of the instance or the first that a request has."""
    places = {key: f"$.extra.{key}" for key in instance.extra}
    for i, request in enumerate(instance.requests):
        for key in request.extra or ():
            places.setdefault(key, f"$.requests[{i}].extra.{key}")
    return places


def _own(parameter: Parameter, instance: Instance) -> Iterator[tuple[str, tuple[Any, str]]]:
    """What requests say of themselves: id, value and place; the attributes of traces where they are asked for."""
    name = parameter.name
    attribute = (
        {key: field for field, key in ATTRIBUTES.items()}.get(name) if parameter.axes[:1] == (REQUEST,) else None
    )
    for i, request in enumerate(instance.requests):
        if request.extra and name in request.extra:
            yield request.id, (request.extra[name], f"$.requests[{i}].extra.{name}")
        elif attribute and (value := getattr(request, attribute)) is not None:
            yield request.id, (value, f"$.requests[{i}].{name}")


def parse_parameters(texts: Iterable[str]) -> dict[str, Any]:
    """Values from ``name=value`` texts, each value as JSON.

    Raises
    ------
    UsageError
        A text is not of that form.
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--param takes NAME=VALUE, found {shown(text)}")
        try:
            values[name.replace("-", "_")] = json.loads(value, parse_constant=lambda word: word)
        except (ValueError, RecursionError):
            values[name.replace("-", "_")] = value
    return values
