"""Parameters of formulation variants: declared once, given on the command line or by the instance, checked.

A formulation declares what it takes as `Parameter` objects. Values come from ``--param name=value``, else from the
instance's ``extra``, else from the default; the formulation's functions find all of them in ``instance.extra``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modelkit.errors import Fault, InputError, UsageError, did_you_mean, shown
from modelkit.instance import Instance


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One number that a formulation takes, or one for each request.

    Parameters
    ----------
    name
        A Python name; as users write it.
    doc
        What it means, ending in its unit: ``requests in progress at once [request]``.
    kind
        ``int`` or ``float``.
    least, most
        Range, both ends allowed; None for no end.
    default
        None: it must be given. For each request: what holds for those that are not named; None there too.
    per_request
        Whether each request has its own: an object from request id to number, or one number for all.
    optional
        Of a parameter for each request: requests that are not named simply have none.
    examples
        Values that ``modelkit check`` tries; some should bind on instances of three requests.
    """

    name: str
    doc: str
    kind: type[int] | type[float] = int
    least: float | None = None
    most: float | None = None
    default: float | None = None
    per_request: bool = False
    optional: bool = False
    examples: tuple[float, ...] = ()

    @property
    def allowed(self) -> str:
        """The values allowed, in words."""
        words = "a whole number" if self.kind is int else "a number"
        if self.least is not None and self.most is not None:
            words += f" from {self.least:g} to {self.most:g}"
        elif self.least is not None:
            words += f", {self.least:g} or more"
        elif self.most is not None:
            words += f", {self.most:g} or less"
        return words + (", or an object from request ids to such numbers" if self.per_request else "")

    def fault(self, value: object) -> str | None:
        """Why one number is not allowed, or None."""
        right = isinstance(value, int | float) and not isinstance(value, bool)
        if right and self.kind is int:
            right = float(value).is_integer()  # type: ignore[arg-type]
        if right:
            number = float(value)  # type: ignore[arg-type]
            right = (self.least is None or number >= self.least) and (self.most is None or number <= self.most)
            right = right and abs(number) <= 1e12
        return None if right else f"found {shown(value)}; allowed: {self.allowed}"

    def resolved(self, value: Any, instance: Instance, path: str, faults: list[Fault]) -> Any:
        """The value in its own type: a number, or a dictionary by request id."""
        if not self.per_request:
            if (why := self.fault(value)) is not None:
                faults.append(Fault(path, why))
                return None
            return self.kind(value)
        numbers: dict[str, Any] = {}
        given = value if isinstance(value, dict) else dict.fromkeys(instance.index, value)
        for request, number in given.items():
            place = f"{path}.{request}" if isinstance(value, dict) else path
            if request not in instance.index:
                faults.append(Fault(place, f"the instance has no such request{did_you_mean(request, instance.index)}"))
            elif number is not None and (why := self.fault(number)) is not None:
                faults.append(Fault(place, why))
                if not isinstance(value, dict):
                    break
            elif number is not None:
                numbers[request] = self.kind(number)
        missing = [r for r in instance.index if r not in numbers]
        if missing and not faults and self.default is not None:
            numbers.update(dict.fromkeys(missing, self.kind(self.default)))
        elif missing and not faults and not self.optional:
            faults.append(Fault(path, f"says nothing about {len(missing)} requests, the first {missing[0]!r}"))
        return {r: numbers[r] for r in instance.index if r in numbers}


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
    free = [name for name in known if name not in instance.extra]
    for key in instance.extra:
        if key not in known and (near := did_you_mean(key, free)):
            faults.append(Fault(f"$.extra.{key}", f"formulation {owner!r} has no such parameter{near}"))
    values: dict[str, Any] = {}
    for name, parameter in known.items():
        if name in given:
            values[name] = parameter.resolved(given[name], instance, f"--param {name}", faults)
        elif name in instance.extra:
            values[name] = parameter.resolved(instance.extra[name], instance, f"$.extra.{name}", faults)
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
