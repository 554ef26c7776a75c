"""Values of parameters that are lists, maps, or one for each request, group or pair: brought into their shape."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelkit.errors import Fault, did_you_mean, shown
from modelkit.instance import Instance, whole
from modelkit.requests import ATTRIBUTES
from modelkit.text import count

if TYPE_CHECKING:
    from modelkit.formulation.parameters import Parameter

#: What a parameter may have values for, beside groups of requests.
REQUEST, LIST, KEY = "request", "list", "key"

#: A number and its unit.
_WITH_UNIT = re.compile(r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s+(\S.*?)\s*")


class Resolution:
    """One parameter's value, resolved for an instance; faults are added to a list with their places.

    Parameters
    ----------
    instance
        None: members of groups are not looked at.
    """

    def __init__(self, parameter: Parameter, unit: str | None, instance: Instance | None, faults: list[Fault]) -> None:
        self.parameter = parameter
        self.unit = unit
        self.instance = instance
        self.faults = faults

    def at(self, value: Any, axes: tuple[str, ...], path: str, own: Mapping[str, tuple[Any, str]]) -> Any:
        """The value that stands at a path, where these axes are left; ``own`` counts before it."""
        if not axes:
            return self.one(value, path)
        axis, rest = axes[0], axes[1:]
        if axis == LIST:
            if not isinstance(value, list | tuple):
                self.refuse(value, path)
                return []
            return [self.at(entry, rest, f"{path}[{i}]", {}) for i, entry in enumerate(value)]
        members = self.members(axis)
        if members == [] and not self.parameter.optional:
            self.faults.append(Fault(path, f"is by {axis}, but no request of the instance has one"))
            return {}
        entries = {**self.entries(value, axis, members, path), **own}
        found = self.each(entries, axis, members, rest)
        return found if members is None or self.faults else self.filled(found, axis, members, rest, path)

    def entries(self, value: Any, axis: str, members: list[str] | None, path: str) -> dict[str, tuple[Any, str]]:
        """Value and place of each member that is named; of all where one value stands for all."""
        if isinstance(value, dict):
            return {str(key): (entry, f"{path}.{key}") for key, entry in value.items()}
        if axis == REQUEST and isinstance(value, list | tuple):
            if members is not None and len(value) != len(members):
                self.faults.append(
                    Fault(
                        path,
                        f"has {count(len(value), 'value')}; allowed: one for each of {count(len(members), 'request')}",
                    )
                )
                return {}
            names = members or [str(i) for i in range(len(value))]
            return {name: (entry, f"{path}[{i}]") for i, (name, entry) in enumerate(zip(names, value, strict=True))}
        if value is None:
            return {}
        if axis == KEY:
            self.refuse(value, path)
            return {}
        return dict.fromkeys(["all"] if members is None else members, (value, path))

    def each(
        self, entries: Mapping[str, tuple[Any, str]], axis: str, members: list[str] | None, rest: tuple[str, ...]
    ) -> dict[str, Any]:
        """The entries in their own types; those of no member are faults."""
        found: dict[str, Any] = {}
        known = None if members is None else set(members)
        wrong = ""
        for name, (entry, place) in entries.items():
            if known is not None and name not in known:
                near = did_you_mean(name, known - set(entries))
                if axis == REQUEST or near:  # a class that no request has may come with another trace
                    self.faults.append(Fault(place, f"the instance has no such {axis}{near}"))
            elif entry is not None and place != wrong:  # one value for all has one fault
                before = len(self.faults)
                found[name] = self.at(entry, rest, place, {})
                wrong = place if len(self.faults) > before else wrong
        return found

    def filled(
        self, found: dict[str, Any], axis: str, members: list[str], rest: tuple[str, ...], path: str
    ) -> dict[str, Any]:
        """The members in their order, with the default for those that nothing is said of."""
        missing = [name for name in members if name not in found]
        if missing and self.parameter.default is not None:
            usual = self.parameter.default
            found |= {name: self.at(usual, rest, f"default of {self.parameter.name}", {}) for name in missing}
        elif missing and not self.parameter.optional:
            noun = {"class": "classes"}.get(axis, f"{axis}s")
            self.faults.append(Fault(path, f"says nothing about {len(missing)} {noun}, the first {missing[0]!r}"))
        return {name: found[name] for name in members if name in found}

    def members(self, axis: str) -> list[str] | None:
        """The requests, or the groups that they are in, in the instance's order; None where any name may be one."""
        if self.instance is None or axis == KEY:
            return None
        if axis == REQUEST:
            return list(self.instance.index)
        return list(dict.fromkeys(group_of(self.instance, axis).values()))

    def one(self, value: Any, path: str) -> Any:
        """One number or text in its own type."""
        if isinstance(value, str) and self.parameter.kind in (int, float) and (parts := _WITH_UNIT.fullmatch(value)):
            if parts[2].strip("[]") != self.unit:
                self.faults.append(Fault(path, f"found {shown(value)}; allowed: the unit {self.unit!r}"))
                return None
            with contextlib.suppress(ValueError):
                value = float(parts[1])
        if (why := self.parameter.fault(value)) is not None:
            self.faults.append(Fault(path, why))
            return None
        return self.parameter.kind(value)

    def refuse(self, value: Any, path: str) -> None:
        """It has not the shape."""
        self.faults.append(Fault(path, f"found {shown(value)}; allowed: {self.parameter.allowed}"))


def group_of(instance: Instance, axis: str) -> dict[str, str]:
    """The group of each request that is in one: of its attributes, of its ``extra``, or of the instance's."""
    attribute = {key: field for field, key in ATTRIBUTES.items()}.get(axis)
    said = instance.extra.get(axis)
    if isinstance(said, list) and len(said) == len(instance.requests):
        said = dict(zip(instance.index, said, strict=True))
    groups = dict(said) if isinstance(said, dict) else {}
    for request in instance.requests:
        value = getattr(request, attribute) if attribute else (request.extra or {}).get(axis)
        if value is not None:
            groups[request.id] = value
    return {name: str(whole(groups[name])) for name in instance.index if groups.get(name) is not None}
