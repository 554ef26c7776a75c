"""Tables of other people: CSV and JSON lines, gzipped or not, with the line of every row."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from modelkit.clock import MAX_TOKENS
from modelkit.errors import Fault, InputError, did_you_mean, shown
from modelkit.io.files import MOST_TRACE_BYTES, MOST_TRACE_LINES, read_lines, read_pieces, where_of
from modelkit.io.json_stream import DECODER, LONGEST_VALUE, JsonStream, TwiceError
from modelkit.text import count

#: Pieces of blanks that a file may begin with.
_BLANK_PIECES = 16


@dataclass(frozen=True)
class Row:
    """One row: its cells by column and the line it ends on, or its number in a list, from 1."""

    line: int
    cells: Mapping[str, Any]
    in_list: bool = False

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"$[{self.line - 1}]" if self.in_list else f"line {self.line}"

    def cell(self, column: str) -> str | None:
        """Text of a cell without the blanks around it; None when the row ends before it."""
        value = self.cells.get(column)
        return value.strip() if isinstance(value, str) else value

    def fault(self, column: str, allowed: str) -> Fault:
        """A wrong cell."""
        return Fault(f"{self.place}, {column}", f"found {shown(self.cells.get(column))}; allowed: {allowed}")

    def tokens(self, column: str, faults: list[Fault], *, least: int = 1) -> int:
        """A number of tokens, 374 or 374.0; ``least`` when it is none, with a fault."""
        value = self.cells.get(column)
        if isinstance(value, str):
            whole, point, zeros = value.strip().partition(".")
            value = int(whole) if whole.isascii() and whole.isdigit() and len(whole) < 12 else None
            if point and zeros.strip("0"):
                value = None
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_TOKENS:
            faults.append(self.fault(column, f"{least} to {MAX_TOKENS}"))
            return least
        return value

    def number(
        self, column: str, faults: list[Fault], *, least: float = 0.0, above: float | None = None, most: float = 1e12
    ) -> float:
        """A finite number, ``least`` or more, or more than ``above``; 1 when it is none, with a fault."""
        value = self.cells.get(column)
        try:
            number = math.nan if isinstance(value, bool) or value is None else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not (least <= number <= most) or (above is not None and number <= above):
            allowed = f"a number, {least:g} or more" if above is None else f"a number above {above:g}"
            faults.append(self.fault(column, allowed))
            return 1.0
        return number


class Table:
    """A CSV file that is read once, row by row; its cells stand between commas, semicolons or tabs."""

    def __init__(self, where: str, lines: Iterable[str]) -> None:
        self.where = where
        lines = iter(lines)
        head = next(lines, "")
        self.is_json = head.lstrip()[:1] in ("{", "[")
        marks = [mark for mark in ";\t" if mark in head and "," not in head]
        self._reader = csv.DictReader(chain([head], lines), delimiter=marks[0] if marks else ",", strict=True)
        try:
            self.columns: Sequence[str] = [(name or "").strip() for name in self._reader.fieldnames or ()]
        except csv.Error as error:
            raise InputError(where, [Fault("line 1", str(error))]) from None
        self._reader.fieldnames = list(self.columns)

    def require(self, columns: Iterable[str]) -> None:
        """Raise unless the table has each of these columns once."""
        columns = tuple(columns)
        if columns and (self.is_json or not any(self.columns)):
            found = "it is JSON" if self.is_json else "is empty"
            raise InputError(self.where, [Fault("line 1", f"{found}; allowed: a CSV table with {', '.join(columns)}")])
        missing = [
            Fault("line 1", f"has no column {c!r}{did_you_mean(c, self.columns)}")
            for c in columns
            if c not in self.columns
        ]
        missing += [Fault("line 1", f"the column {c!r} occurs twice") for c in columns if self.columns.count(c) > 1]
        if missing:
            missing.append(Fault("line 1", f"its columns: {shown(', '.join(self.columns[:12]), 200)}"))
            raise InputError(self.where, missing)

    def rows(self) -> Iterator[Row]:
        """Its rows; one with more cells than there are columns is refused, for they may stand under others."""
        try:
            for row in self._reader:
                more = [cell for cell in row.pop(None, ()) if cell.strip()]
                if more:
                    words = f"has more cells than the {count(len(self.columns), 'column')} of line 1: {shown(more[0])}"
                    raise InputError(self.where, [Fault(f"line {self._reader.line_num}", words)])
                yield Row(self._reader.line_num, row)
        except csv.Error as error:
            words = f"no row of a table ({error}); is a quotation mark not closed?"
            raise InputError(self.where, [Fault(f"line {self._reader.reader.line_num}", words)]) from None


def _lines(path: str | os.PathLike[str], trace: bool) -> Iterator[str]:
    if trace:
        return read_lines(path, most=MOST_TRACE_LINES, most_bytes=MOST_TRACE_BYTES)
    return read_lines(path)


def read_csv(path: str | os.PathLike[str], columns: Iterable[str] = (), *, trace: bool = False) -> Table:
    """A CSV file that has these columns; a ``trace`` may be longer than what is kept whole.

    Raises
    ------
    InputError
        It is not text, or has not these columns.
    UsageError
        It cannot be opened.
    """
    table = Table(where_of(path), _lines(path, trace))
    table.require(columns)
    return table


def read_json_lines(
    path: str | os.PathLike[str],
    keys: Iterable[str],
    *,
    hint: Callable[[Mapping[str, Any]], str] = lambda _: "",
) -> Iterator[Row]:
    """Rows of a file with one JSON object a line, or of one list of objects, that have these keys.

    The file may be longer than what is kept whole: it is read no further than rows are asked for.

    Parameters
    ----------
    hint
        What else to say of an object that lacks a key.

    Raises
    ------
    InputError
        At the first that is no object, or lacks a key.
    UsageError
        The file cannot be opened.
    """
    where, keys = where_of(path), tuple(keys)
    for row in json_rows(path):
        found = row.cells
        if not isinstance(found, dict):
            raise InputError(where, [Fault(row.place, f"found {shown(found)}; allowed: a JSON object")])
        missing = [
            Fault(row.place, f"has no key {key!r}{did_you_mean(key, found) or hint(found)}")
            for key in keys
            if key not in found
        ]
        if missing:
            raise InputError(where, missing)
        yield row


def json_rows(path: str | os.PathLike[str]) -> Iterator[Row]:
    """Values of a file: elements of its list, one a line, or one after another over several lines."""
    pieces = read_pieces(path, MOST_TRACE_BYTES)
    begun: list[str] = []
    for piece in pieces:
        begun.append(piece)
        if piece.strip() or len(begun) == _BLANK_PIECES:
            break
    head = "".join(begun).strip().partition("\n")[0].strip()
    pieces = chain(begun, pieces)
    if head.startswith("["):
        stream = JsonStream(path, pieces)
        for i in stream.elements():
            yield Row(i + 1, stream.value(), in_list=True)
        if stream.peek():
            raise stream.refused("more stands behind the list; allowed: one list, or one JSON object per line")
    elif head == "{":
        stream = JsonStream(path, pieces)
        while stream.peek():
            line = stream.line
            yield Row(line, stream.value())
    else:
        yield from _json_by_lines(where_of(path), pieces)


def _json_by_lines(where: str, pieces: Iterable[str]) -> Iterator[Row]:
    for line, text in enumerate(_lines_of(where, pieces), start=1):
        if not text.strip():
            continue
        try:
            yield Row(line, DECODER.decode(text))
        except TwiceError as error:
            raise InputError(where, [Fault(f"line {line}", str(error))]) from None
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "numbers too long or nested too deeply"
            table = line == 1 and text.lstrip()[:1] not in ("{", "[") and any(mark in text for mark in ",;\t")
            words = "looks like a CSV table; allowed: one JSON object per line" if table else f"not JSON: {reason}"
            raise InputError(where, [Fault(f"line {line}", words)]) from None


def _lines_of(where: str, pieces: Iterable[str]) -> Iterator[str]:
    """Lines of a text; the longest is that of the longest value."""
    number, rest = 0, ""
    for piece in pieces:
        *lines, rest = (rest + piece).split("\n")
        number += len(lines)
        if len(rest) > LONGEST_VALUE or number > MOST_TRACE_LINES:
            words = f"longer than {LONGEST_VALUE:,} characters"
            if number > MOST_TRACE_LINES:
                words = f"more than {MOST_TRACE_LINES:,} lines, the most that are read"
            raise InputError(where, [Fault(f"line {number + 1}", words)])
        yield from lines
    if rest:
        yield rest
