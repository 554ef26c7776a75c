"""Tables as data for the templates, and small words that both pages share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelkit.reporting.evidence import Case
from modelkit.reporting.goals import whole_numbers
from modelkit.result import Producer
from modelkit.text import brief, count


@dataclass(frozen=True)
class Cell:
    """Words of a cell, what it is sorted by, and where it leads."""

    words: str
    key: str | float | None = None
    href: str = ""
    code: bool = False


@dataclass(frozen=True)
class Column:
    """A heading, whether numbers stand under it, and what it means."""

    words: str
    numeric: bool = True
    title: str = ""


@dataclass(frozen=True)
class TableRow:
    """Cells; ``state`` is ``best``, ``bad`` or nothing."""

    cells: tuple[Cell, ...]
    state: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its caption."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    sortable: bool = True


def figure_table(table: tuple[tuple[str, ...], tuple[tuple[str, ...], ...]], title: str) -> Table:
    """The table of a figure."""
    header, rows = table
    columns = tuple(Column(words, k > 0) for k, words in enumerate(header))
    return Table(f"{title}, in numbers", columns, tuple(TableRow(tuple(Cell(c) for c in row)) for row in rows), False)


def sort_key(value: float | None) -> str:
    """What a number is sorted by; nothing where it is not known."""
    return "" if value is None else f"{value:.12g}"


def option_words(value: object) -> str:
    """An option's value in words."""
    if isinstance(value, float):
        return f"{value:g}"
    return {None: "none", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)


def option_facts(producer: Producer) -> list[str]:
    """The options of a run and the parameters of its formulation, each ``name = value``."""
    options = [f"{key} = {option_words(value)}" for key, value in producer.options.items()]
    return [f"{key} = {brief(whole_numbers(value))}" for key, value in producer.parameters.items()] + options


def commands(found: Sequence[Case], most: int = 12) -> list[str]:
    """The command lines that made the results."""
    commands = sorted({c for case in found for e in case.entries if (c := e.result.producer.command)})
    more = len(commands) - most
    return commands if more <= 0 else [*commands[:most], f"… and {count(more, 'more command')}"]
