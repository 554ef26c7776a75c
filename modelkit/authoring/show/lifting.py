"""From the rows of small models back to one formula for each family of constraints.

The rows of all members of a family, on several instances, are put together from the same few groups of terms. For each
group the positions of its indices, its coefficient and the set that it is summed over are expressed in the symbols of
the row; what is returned holds for every row looked at, and what cannot be expressed is said to be so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any, NamedTuple

from modelkit.authoring.show.rows import ModelRow
from modelkit.authoring.show.traced import Leaf, Polynomial

#: A family with more groups of terms than this has no formula worth reading.
MOST_GROUPS = 8


class Member(NamedTuple):
    """A term of a row: the index of its variable, and its coefficient."""

    row: ModelRow
    key: tuple[Any, ...]
    how: Polynomial


class Sym(NamedTuple):
    """An index: ``base`` plus ``offset``.

    The base is a position of the row ``c0`` or of the variable ``p0``, an end of a set such as ``first of REQUESTS``,
    or a literal. ``parameter`` is added ``sign`` times, at the index ``at``.
    """

    base: str
    offset: int = 0
    sign: int = 0
    parameter: str = ""
    at: str = ""


class SymLeaf(NamedTuple):
    """A parameter at symbolic indices, or an index itself when ``name`` is empty."""

    name: str
    at: tuple[Sym, ...]


@dataclass(frozen=True)
class Range:
    """What the bound positions of a term run over.

    ``kind`` is ``set`` (a set of the model, at ``key``), ``all`` (wherever the variable exists), or ``picked`` (no
    formula found). ``lower`` and ``upper`` limit one position, ``limited``; or what stands there comes in the order of
    the set ``name`` before position ``before`` of the row, or is not what stands at position ``apart`` of the row.
    """

    kind: str
    positions: tuple[int, ...] = ()
    name: str = ""
    key: tuple[Sym, ...] = ()
    limited: int = -1
    lower: Sym | None = None
    upper: Sym | None = None
    before: int = -1
    apart: int = -1


@dataclass(frozen=True)
class Term:
    """``sum over range of coefficient variable[index]``; without range a single term, where it exists."""

    coefficient: dict[tuple[SymLeaf, ...], float]
    variable: str
    index: tuple[Sym, ...]
    range: Range | None


@dataclass(frozen=True)
class Side:
    """Terms and a constant."""

    terms: tuple[Term, ...]
    constant: dict[tuple[SymLeaf, ...], float]


def lift(rows: list[ModelRow]) -> Side | None:
    """One formula for one side of all members of a family; None when there is none."""
    groups: dict[tuple[str, Any], list[Member]] = {}
    for row in rows:
        for (variable, index), how in row.terms.items():
            groups.setdefault((variable, _shape(how)), []).append(Member(row, index, how))
    if len(groups) > MOST_GROUPS:
        return None
    terms = []
    for (variable, _), members in groups.items():
        term = _lift_group(variable, members, rows)
        if term is None:
            return None
        terms.append(term)
    told = {id(row.world) for row in rows if row.constant}  # elsewhere it is 0
    bare = [Member(row, (), row.constant) for row in rows if id(row.world) in told]
    shapes = {_shape(member.how) for member in bare}
    constant = None if len(shapes) > 1 else _symbolic(bare) if bare else {}
    return None if constant is None else Side(tuple(terms), constant)


def _shape(how: Polynomial) -> Any:
    return tuple(sorted((c, tuple(leaf.name for leaf in leaves)) for leaves, c in how.items()))


def _lift_group(variable: str, members: list[Member], rows: list[ModelRow]) -> Term | None:
    coefficient = _symbolic(members)
    if coefficient is None:
        return None
    index = tuple(_position(q, members) for q in range(len(members[0].key)))
    worlds = {id(member.row.world) for member in members}
    here = [row for row in rows if id(row.world) in worlds]  # elsewhere its coefficient is 0
    over = _range(variable, index, members, here)
    if over is not None and over.kind == "picked":  # one member, then, that the row does not name
        index = tuple(_end(q, variable, members) if sym.base == f"p{q}" else sym for q, sym in enumerate(index))
        over = _range(variable, index, members, here)
    return Term(coefficient, variable, index, over)


# --- indices -----------------------------------------------------------------------------------


def _number(value: Any) -> bool:
    return isinstance(value, int | float)


def _position(q: int, members: list[Member]) -> Sym:
    """Position q of a variable's index in terms of the row's index, or bound."""
    rank = len(members[0].row.at)
    for j in range(rank):
        if all(member.row.at[j] == member.key[q] for member in members):
            return Sym(f"c{j}")
    if all(_number(member.key[q]) for member in members):
        for j in range(rank):
            if not all(_number(member.row.at[j]) for member in members):
                continue
            offsets = {index[q] - row.at[j] for row, index, _ in members}
            if len(offsets) == 1:
                return Sym(f"c{j}", int(offsets.pop()))
            for name, at, value in _parameters(members, q):
                for sign in (-1, 1):
                    offsets = {index[q] - row.at[j] - sign * value(row, index) for row, index, _ in members}
                    if len(offsets) == 1:
                        return Sym(f"c{j}", int(offsets.pop()), sign, name, at)
    return Sym(f"p{q}")


def _end(q: int, variable: str, members: list[Member]) -> Sym:
    """Position q where that is always the first or the last of its set, or one number; else bound."""
    domain = members[0].row.world.domains[variable].get((q,), "")
    if all(domain in member.row.world.orders for member in members):
        for word, at in (("first", 0), ("last", -1)):
            if all(member.key[q] == list(member.row.world.orders[domain])[at] for member in members):
                return Sym(f"{word} of {domain}")
    values = {member.key[q] for member in members}
    return Sym(str(values.pop())) if len(values) == 1 and _number(members[0].key[q]) else Sym(f"p{q}")


def _parameters(
    members: list[Member], besides: int
) -> Iterator[tuple[str, str, Callable[[ModelRow, tuple[Any, ...]], float]]]:
    """Parameters with one index that some other position of the variable, or of the row, gives."""
    row, index, _ = members[0]
    places = [f"p{r}" for r in range(len(index)) if r != besides] + [f"c{j}" for j in range(len(row.at))]
    for name in row.world.parameters:
        for place in places:

            def value(row: ModelRow, index: tuple[Any, ...], name: str = name, place: str = place) -> float:
                return row.world.parameters[name][_at(place, row, index),]

            if all((_at(place, r, i),) in r.world.parameters.get(name, {}) for r, i, _ in members):
                yield name, place, value


def _at(place: str, row: ModelRow, index: tuple[Any, ...]) -> Any:
    return (row.at if place[0] == "c" else index)[int(place[1:])]


# --- coefficients ------------------------------------------------------------------------------


def _symbolic(members: list[Member]) -> dict[tuple[SymLeaf, ...], float] | None:
    """The coefficient in symbols: each leaf's index is a position that has its value in every term."""
    keyed = [sorted(one.how.items(), key=lambda item: (item[1], [x.name for x in item[0]])) for one in members]
    total: dict[tuple[SymLeaf, ...], float] = {}
    for m in range(len(keyed[0])):
        leaves = [how[m][0] for how in keyed]
        symbols: list[SymLeaf] = []
        for n in range(len(leaves[0])):
            symbol = _leaf([each[n] for each in leaves], members)
            if symbol is None:
                return None
            symbols.append(symbol)
        total[tuple(symbols)] = keyed[0][m][1]
    return total


def _leaf(leaves: list[Leaf], members: list[Member]) -> SymLeaf | None:
    if len({leaf.name for leaf in leaves}) > 1:
        return None
    symbols = []
    for n in range(len(leaves[0].at)):
        symbol = _same_as([leaf.at[n] for leaf in leaves], members)
        if symbol is None:
            return None
        symbols.append(symbol)
    return SymLeaf(leaves[0].name, tuple(symbols))


def _same_as(values: list[Any], members: list[Member]) -> Sym | None:
    """A position of the row or the variable that has these values; else a member of a set, or one literal."""
    row, index, _ = members[0]
    places = [f"p{q}" for q in range(len(index))] + [f"c{j}" for j in range(len(row.at))]
    for place in places:
        if all(v == _at(place, r, i) for v, (r, i, _) in zip(values, members, strict=True)):
            return Sym(place)
    for name, members_of in row.world.sets.items():
        if not isinstance(members_of, dict) and all(
            len(getattr(r.world.model, name)) and v == getattr(r.world.model, name).first()
            for v, (r, _, _) in zip(values, members, strict=True)
        ):
            return Sym(f"first of {name}")
    return Sym(str(values[0])) if len(set(values)) == 1 else None


# --- ranges ------------------------------------------------------------------------------------


def _range(variable: str, index: tuple[Sym, ...], members: list[Member], rows: list[ModelRow]) -> Range | None:
    bound = tuple(q for q, sym in enumerate(index) if sym.base == f"p{q}")
    if not bound:
        return None
    taken: dict[int, set[tuple[Any, ...]]] = {id(row): set() for row in rows}
    for row, at, _ in members:
        taken[id(row)].add(tuple(at[q] for q in bound))
    everything = {id(row): [k for k in row.world.keys[variable] if fits(index, row, k)] for row in rows}
    rank = len(rows[0].at)
    domain = rows[0].world.domains[variable].get(bound)
    for name, members_of in rows[0].world.sets.items():
        if not isinstance(members_of, dict):
            if name == domain and all(row.world.sets[name] == taken[id(row)] for row in rows):
                return Range("set", bound, name)
            continue
        for size in range(1, rank + 1):
            for at in combinations(range(rank), size):
                if all(row.world.sets[name].get(tuple(row.at[j] for j in at)) == taken[id(row)] for row in rows):
                    return Range("set", bound, name, tuple(Sym(f"c{j}") for j in at))
    if all({tuple(k[q] for q in bound) for k in everything[id(row)]} == taken[id(row)] for row in rows):
        return Range("all", bound)
    for name, members_of in rows[0].world.sets.items():
        if not isinstance(members_of, dict) and all(row.world.sets.get(name) == taken[id(row)] for row in rows):
            return Range("set", bound, name)
    found = _limit(variable, index, bound, taken, everything, rows)
    found = found or _earlier(bound, taken, everything, rows) or _apart(bound, taken, everything, rows)
    return found or Range("picked", bound)


def _apart(
    bound: tuple[int, ...],
    taken: dict[int, set[tuple[Any, ...]]],
    everything: dict[int, list[tuple[Any, ...]]],
    rows: list[ModelRow],
) -> Range | None:
    """Where the variable exists, but for one position that is not what stands at one of the row's."""
    for q, j in product(bound, range(len(rows[0].at))):
        if all(
            (k[q] != row.at[j]) == (tuple(k[p] for p in bound) in taken[id(row)])
            for row in rows
            for k in everything[id(row)]
        ):
            return Range("all", bound, limited=q, apart=j)
    return None


def _earlier(
    bound: tuple[int, ...],
    taken: dict[int, set[tuple[Any, ...]]],
    everything: dict[int, list[tuple[Any, ...]]],
    rows: list[ModelRow],
) -> Range | None:
    """Where the variable exists, with one position before one of the row's in the order of a set."""
    for name, q, j in product(rows[0].world.orders, bound, range(len(rows[0].at))):
        if all(
            (k[q] in (order := row.world.orders[name]) and row.at[j] in order and order[k[q]] < order[row.at[j]])
            == (tuple(k[p] for p in bound) in taken[id(row)])
            for row in rows
            for k in everything[id(row)]
        ):
            return Range("all", bound, name, limited=q, before=j)
    return None


def base_of(base: str, row: ModelRow) -> Any:
    """What an index is without its offset: a position of the row, an end of a set, or a literal."""
    if base[:1] == "c" and base[1:].isdigit():
        return row.at[int(base[1:])]
    word, of, name = base.partition(" of ")
    if of and word in ("first", "last"):
        members = getattr(row.world.model, name)
        return members.first() if word == "first" else members.last()
    try:
        return float(base)
    except ValueError:
        return base


def fits(index: tuple[Sym, ...], row: ModelRow, key: tuple[Any, ...]) -> bool:
    """Whether a key of the variable agrees with the positions that are not bound."""
    for q, sym in enumerate(index):
        if sym.base == f"p{q}":
            continue
        value = base_of(sym.base, row)
        if sym.offset or sym.sign:
            value += sym.offset
            if sym.sign:
                value += sym.sign * row.world.parameters[sym.parameter][_at(sym.at, row, key),]
        if value != key[q]:
            return False
    return True


def _limit(
    variable: str,
    index: tuple[Sym, ...],
    bound: tuple[int, ...],
    taken: dict[int, set[tuple[Any, ...]]],
    everything: dict[int, list[tuple[Any, ...]]],
    rows: list[ModelRow],
) -> Range | None:
    """Where the variable exists, with one position between two limits."""
    pairs = [(row, k, tuple(k[q] for q in bound) in taken[id(row)]) for row in rows for k in everything[id(row)]]
    if not any(inside for _, _, inside in pairs):
        return None
    members = [Member(row, k, {}) for row, k, _ in pairs]
    for q, j in product(bound, range(len(rows[0].at))):
        if not all(_number(k[q]) and _number(row.at[j]) for row, k, _ in pairs):
            continue
        options = list(_parameters(members, q))
        limits: list[tuple[str, str, int, Callable[[ModelRow, tuple[Any, ...]], float]]] = [("", "", 0, lambda r, k: 0)]
        limits += [(name, at, sign, value) for name, at, value in options for sign in (-1, 1)]
        gaps = [[k[q] - row.at[j] - sign * value(row, k) for row, k, _ in pairs] for _, _, sign, value in limits]
        inside = [n for n, (_, _, one) in enumerate(pairs) if one]
        lows: list[int | None] = [None, *range(len(limits))]
        for low, high in product(lows, lows):
            least = None if low is None else min(gaps[low][n] for n in inside)
            most = None if high is None else max(gaps[high][n] for n in inside)
            if all(
                ((low is None or gaps[low][n] >= least) and (high is None or gaps[high][n] <= most)) == one
                for n, (_, _, one) in enumerate(pairs)
            ):
                made = [
                    None if at is None or end is None else Sym(f"c{j}", int(end), limits[at][2], *limits[at][:2])
                    for at, end in ((low, least), (high, most))
                ]
                return Range("all", bound, limited=q, lower=made[0], upper=made[1])
    return None
