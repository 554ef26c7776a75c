"""Numbers that remember where they came from, so that a model built with them can be read as mathematics.

A `Traced` number is the value itself and a polynomial in leaves: parameters by name and index, and members of sets. A
formulation builds with them as with plain numbers, and whatever it computes from them ends up in its coefficients
with the polynomial attached.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Leaf(NamedTuple):
    """A parameter's value, or a member of a set when ``name`` is empty; ``at`` is then the member."""

    name: str
    at: tuple[Any, ...]


#: Coefficient by product of leaves; the empty product is the constant.
Polynomial = dict[tuple[Leaf, ...], float]


def polynomial(value: object) -> Polynomial:
    """The polynomial of a number; of an untraced one a constant."""
    known = getattr(value, "polynomial", None)
    if known is not None:
        return dict(known)
    return {(): float(value)} if value else {}  # type: ignore[arg-type]


def add(a: Polynomial, b: Polynomial, factor: float = 1.0) -> Polynomial:
    """``a + factor b``."""
    total = dict(a)
    for leaves, coefficient in b.items():
        total[leaves] = total.get(leaves, 0.0) + factor * coefficient
        if not total[leaves]:
            del total[leaves]
    return total


def multiply(a: Polynomial, b: Polynomial) -> Polynomial:
    """``a b``."""
    total: Polynomial = {}
    for one, x in a.items():
        for other, y in b.items():
            total = add(total, {tuple(sorted((*one, *other), key=repr)): x * y})
    return total


class _Arithmetic:
    """Sums, differences and products keep the polynomial; everything else gives plain numbers."""

    polynomial: Polynomial

    def __add__(self, other: Any) -> Any:
        if not isinstance(other, int | float):
            return NotImplemented
        return trace(plain(self) + plain(other), add(polynomial(self), polynomial(other)))

    def __sub__(self, other: Any) -> Any:
        if not isinstance(other, int | float):
            return NotImplemented
        return trace(plain(self) - plain(other), add(polynomial(self), polynomial(other), -1.0))

    def __mul__(self, other: Any) -> Any:
        if not isinstance(other, int | float):
            return NotImplemented
        return trace(plain(self) * plain(other), multiply(polynomial(self), polynomial(other)))

    def __rsub__(self, other: Any) -> Any:
        return (-self) + other

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Any:
        return trace(-plain(self), {leaves: -c for leaves, c in self.polynomial.items()})

    def __reduce__(self) -> Any:
        return trace, (plain(self), self.polynomial)


def plain(value: Any) -> Any:
    """The number without its polynomial."""
    return float(value) if isinstance(value, float) else int(value)


class TracedInt(_Arithmetic, int):
    """A whole number with its polynomial."""


class TracedFloat(_Arithmetic, float):
    """A real number with its polynomial."""


def trace(value: float, how: Polynomial) -> Any:
    """The number with this polynomial."""
    made = (TracedInt if isinstance(value, int) else TracedFloat)(value)
    made.polynomial = how
    return made


def traced_data(data: Mapping[str, Any], parameters: set[str]) -> dict[str, Any]:
    """The data of a formulation, with a leaf for each number: of parameters by name, of sets as their member."""
    return {key: _parameter(key, value) if key in parameters else _set(value) for key, value in data.items()}


def _parameter(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {i: _leaf(name, i if isinstance(i, tuple) else (i,), v) for i, v in value.items()}
    return _leaf(name, (), value)


def _set(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _set(members) for key, members in value.items()}
    return [tuple(_member(part) for part in m) if isinstance(m, tuple) else _member(m) for m in value]


def _member(value: Any) -> Any:
    return _leaf("", (value,), value)


def _leaf(name: str, index: tuple[Any, ...], value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return trace(value, {(Leaf(name, index),): 1.0})
