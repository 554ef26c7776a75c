"""Formulas as they are written, read again and evaluated: from the text alone, by nothing that helped to write it.

::

    formula   "min  " or "max  " side; or side relation side
    side      ["-"] part {(" + " | " - ") part}
    part      {factor " "} factor, or "∑[" ranges "] " part
    factor    number, letter, name, name[indices], or "(" side ")"
    ranges    letters ∈ NAME[indices], free letters: letters ∈ NAME, limits such as t - 1 ≤ k, or i before j in NAME
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from typing import Any

import pyomo.environ as pyo

Letters = dict[str, Any]
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*′*")
_NUMBER = re.compile(r"\d+(\.\d+)?(e[+-]?\d+)?")


class Reader:
    """Evaluates formulas on a model with values for its variables; variables that are not there are 0."""

    def __init__(self, model: Any, value: Callable[[Any], float]) -> None:
        self.model = model
        self.value = value

    def sides(self, formula: str, letters: Letters) -> tuple[str, float, float]:
        """The relation and both sides; of an objective the right one is 0."""
        if formula[:5] in ("min  ", "max  "):
            return formula[:3], self.side(formula[5:], letters), 0.0
        for relation in ("≤", "≥", "="):
            parts = _split(formula, f" {relation} ")
            if len(parts) == 2:
                return relation, self.side(parts[0], letters), self.side(parts[1], letters)
        raise ValueError(f"no relation in {formula!r}")

    def side(self, text: str, letters: Letters) -> float:
        """A sum of products."""
        sign, total = 1.0, 0.0
        if text.startswith("-"):
            sign, text = -1.0, text[1:]
        for lead, part in _signed(text):
            total += sign * lead * self.part(part, letters)
        return total

    def part(self, text: str, letters: Letters) -> float:
        if not text.startswith("∑["):
            return self.factors(text, letters)
        end = _closing(text, 1)
        ranges, body = text[2:end], text[end + 1 :].strip()
        return sum(self.part(body, {**letters, **bound}) for bound in self.bindings(ranges, letters))

    def factors(self, text: str, letters: Letters) -> float:
        made = 1.0
        for factor in _split(text, " "):
            made *= self.factor(factor, letters)
        return made

    def factor(self, text: str, letters: Letters) -> float:
        if text.startswith("("):
            assert _closing(text, 0) == len(text) - 1, text
            return self.side(text[1:-1], letters)
        if text in letters:
            return float(letters[text])
        if _NUMBER.fullmatch(text):
            return float(text)
        name, index = self.named(text, letters)
        component = getattr(self.model, name)
        if component.ctype is pyo.Param:
            return float(pyo.value(component if index == () else component[index]))
        assert component.ctype is pyo.Var, text
        key = None if index == () and not component.is_indexed() else index[0] if len(index) == 1 else index
        return self.value(component[key]) if key in component else 0.0

    def named(self, text: str, letters: Letters) -> tuple[str, tuple[Any, ...]]:
        """A name with its index in values."""
        name, bracket, rest = text.partition("[")
        if not bracket:
            return name, ()
        assert rest.endswith("]"), text
        return name, tuple(self.member(part, letters) for part in _split(rest[:-1], ","))

    def member(self, text: str, letters: Letters) -> Any:
        """An index: a letter, a literal, the first of a set, or a sum of such."""
        text = text.strip()
        if text in letters:
            return letters[text]
        if text.startswith("first of "):
            return getattr(self.model, text.removeprefix("first of ")).first()
        if text.startswith("last of "):
            return getattr(self.model, text.removeprefix("last of ")).last()
        if " + " in text or " - " in text:
            value = self.side(text, letters)
            return int(value) if float(value).is_integer() else value
        return int(text) if text.isdecimal() else text

    def bindings(self, ranges: str, letters: Letters) -> Iterator[Letters]:
        """Values of the letters that are bound."""
        conditions: list[str] = []
        for part in _split(ranges, ","):  # free letters before a colon are parted by commas, too
            if conditions and not any(mark in conditions[-1] for mark in ("∈", "≤", "≠", " before ")):
                conditions[-1] += f",{part}"
            else:
                conditions.append(part)
        domains = [c for c in conditions if "∈" in c]
        limits = [c for c in conditions if "∈" not in c]
        choices = [list(self.members(domain, letters)) for domain in domains]
        for parts in product(*choices):
            bound = {letter: value for part in parts for letter, value in part.items()}
            if all(self.within(limit, {**letters, **bound}) for limit in limits):
                yield bound

    def members(self, domain: str, letters: Letters) -> Iterator[Letters]:
        free, colon, rest = domain.partition(": ")
        inside, _, name = (rest if colon else domain).partition(" ∈ ")
        wanted = [part.strip() for part in _split(inside.removeprefix("(").removesuffix(")"), ",")]
        chosen = [letter.strip() for letter in free.split(",")] if colon else wanted
        of, index = self.named(name, letters)
        component = getattr(self.model, of)
        if index:
            component = component[index[0] if len(index) == 1 else index]
        for member in component:
            values = dict(zip(wanted, member if isinstance(member, tuple) else (member,), strict=True))
            made = {letter: values[letter] for letter in chosen}
            if all(p in chosen or self.member(p, {**letters, **made}) == value for p, value in values.items()):
                yield made

    def within(self, limit: str, letters: Letters) -> bool:
        if " ≠ " in limit:
            one, other = (self.member(part, letters) for part in limit.split(" ≠ "))
            return bool(one != other)
        if " before " in limit:
            one, _, rest = limit.partition(" before ")
            other, _, name = rest.partition(" in ")
            order = list(getattr(self.model, name))
            return order.index(letters[one]) < order.index(letters[other])
        values = [self.member(part, letters) for part in limit.split(" ≤ ")]
        return all(a <= b for a, b in pairwise(values))


def _closing(text: str, at: int) -> int:
    """Where the bracket that opens at a place closes."""
    depth = 0
    for n in range(at, len(text)):
        depth += (text[n] in "([") - (text[n] in ")]")
        if not depth:
            return n
    raise ValueError(f"a bracket stays open in {text!r}")


def _split(text: str, mark: str) -> list[str]:
    """Parts between marks outside brackets."""
    parts, depth, begin, n = [], 0, 0, 0
    while n < len(text):
        depth += (text[n] in "([") - (text[n] in ")]")
        if not depth and text.startswith(mark, n):
            parts.append(text[begin:n])
            begin = n = n + len(mark)
            continue
        n += 1
    return [*parts, text[begin:]]


def _signed(text: str) -> Iterator[tuple[float, str]]:
    """Summands with their signs; a sum takes what follows it up to the next sign."""
    for plus in _split(text, " + "):
        for n, part in enumerate(_split(plus, " - ")):
            yield (-1.0 if n else 1.0), part


def gap_of_row(row: Any) -> tuple[str, float]:
    """The relation of a built row, and how far its left side is above its right one at the variables' values."""
    if row.ctype is pyo.Objective:
        return ("max" if row.sense == pyo.maximize else "min"), float(pyo.value(row.expr))
    left, right = row.expr.args
    relation = "=" if "Equality" in type(row.expr).__name__ else "≤"
    return relation, float(pyo.value(left)) - float(pyo.value(right))


def faults(formula: str, letters: tuple[str, ...], component: Any, reader: Reader, most: int) -> Iterator[str]:
    """Rows of a family that a written formula does not give."""
    for key, row in list(component.items())[:most]:
        at = key if isinstance(key, tuple) else () if key is None else (key,)
        relation, left, right = reader.sides(formula, dict(zip(letters, at, strict=True)))
        wanted, gap = gap_of_row(row)
        written = left - right
        if wanted == "≤" and relation == "≥":
            relation, written = "≤", -written
        if wanted == "=" and abs(written + gap) < abs(written - gap):
            written = -written  # sides may be swapped
        if relation != wanted or abs(written - gap) > 1e-6 * max(1.0, abs(gap)):
            yield f"{row.name}: written {relation} {written:g}, built {wanted} {gap:g}: {row.expr}"


def terms_at(formula: str, letters: tuple[str, ...], at: tuple[Any, ...], reader: Reader) -> bool:
    """Whether a formula has a term with a variable that exists at an index."""
    asked: list[Any] = []
    watching = Reader(reader.model, lambda variable: asked.append(variable) or 1.0)
    watching.sides(formula, dict(zip(letters, at, strict=True)))
    return bool(asked)
