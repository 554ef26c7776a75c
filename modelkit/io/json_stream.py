"""JSON of any length, value by value: a file that is one list of a gigabyte costs no more than its longest element."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from itertools import count
from typing import Any

from modelkit.errors import Fault, InputError, shown
from modelkit.io.files import MOST_TRACE_BYTES, read_pieces, where_of

#: Longest value that is read whole [character].
LONGEST_VALUE = 2**24


class TwiceError(ValueError):
    """A key occurs twice in an object."""


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) != len(items):
        keys = [key for key, _ in items]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise TwiceError(f"the key {shown(twice)} occurs twice in one object")
    return found


#: Reads a value whose objects have each key once.
DECODER = json.JSONDecoder(object_pairs_hook=_once)
_BLANKS = re.compile(r"[ \t\n\r]*")
#: Lists in lists that are passed over element by element; deeper ones are read whole.
_PASSED_OVER = 3


class JsonStream:
    """A place in a JSON text that moves on: over the members of an object, the elements of a list, or a whole value.

    Parameters
    ----------
    source
        A file, gzipped or not; ``-`` for standard input.
    pieces
        Its text, when somebody has begun to read it.
    """

    def __init__(self, source: str | os.PathLike[str], pieces: Iterator[str] | None = None) -> None:
        self.where = where_of(source)
        self._pieces = read_pieces(source, MOST_TRACE_BYTES) if pieces is None else pieces
        self._text = ""
        self._at = 0
        self._before = 0

    @property
    def line(self) -> int:
        """Line of the place, from 1."""
        return 1 + self._before + self._text.count("\n", 0, self._at)

    def refused(self, words: str, line: int | None = None) -> InputError:
        """An error at this place, or in another line."""
        return InputError(self.where, [Fault(f"line {line or self.line}", words)])

    def peek(self) -> str:
        """The next character that is no blank, without moving past it; empty at the end."""
        while True:
            found = _BLANKS.match(self._text, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more(1):
                return ""

    def value(self) -> Any:
        """The next value, whole.

        Raises
        ------
        InputError
            It is none, or longer than `LONGEST_VALUE`.
        """
        self.peek()
        while True:
            reason, line = "", 0
            try:
                found, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                reason, line = error.msg, self._before + error.lineno
            except TwiceError as error:
                raise self.refused(str(error)) from None
            except (ValueError, RecursionError):
                raise self.refused("not JSON: numbers too long or nested too deeply") from None
            if not reason and end < len(self._text):
                self._at = end
                return found
            size = len(self._text) - self._at
            if size > LONGEST_VALUE:
                raise self.refused(f"a value of more than {LONGEST_VALUE:,} characters, or not JSON: {reason}")
            if not self._more(size):  # a number may go on where the text stops, so even a value that is read waits
                if reason:
                    raise self.refused(f"not JSON: {reason}", line)
                self._at = end
                return found

    def elements(self) -> Iterator[int]:
        """Numbers of a list's elements, from 0, with the place before each; it has to be read or passed over."""
        self._take("[", "a JSON list")
        if self.peek() == "]":
            self._at += 1
            return
        for i in count():
            yield i
            if self._take(",]", "a comma or the end of the list") == "]":
                return

    def members(self) -> Iterator[str]:
        """Keys of an object, with the place before the value of each; it has to be read or passed over."""
        self._take("{", "a JSON object")
        if self.peek() == "}":
            self._at += 1
            return
        seen = set()
        while True:
            key = self.value() if self.peek() == '"' else None
            if not isinstance(key, str):
                raise self.refused("not JSON: a key in double quotes is expected")
            if key in seen:
                raise self.refused(f"the key {shown(key)} occurs twice in one object")
            seen.add(key)
            self._take(":", "a colon")
            yield key
            if self._take(",}", "a comma or the end of the object") == "}":
                return

    def pass_over(self, depth: int = 0) -> None:
        """Move past the next value."""
        if depth < _PASSED_OVER and self.peek() == "[":
            for _ in self.elements():
                self.pass_over(depth + 1)
        else:
            self.value()

    def _take(self, marks: str, what: str) -> str:
        mark = self.peek()
        if not mark or mark not in marks:
            found = shown(self._text[self._at :][:20].splitlines()[0]) if mark else "the end of the file"
            raise self.refused(f"found {found}; allowed: {what}")
        self._at += 1
        return mark

    def _more(self, most: int) -> bool:
        """Read on, about ``most`` characters; False at the end of the file."""
        self._before += self._text.count("\n", 0, self._at)
        kept = [self._text[self._at :]]
        self._at = 0
        found = 0
        while found < most and (piece := next(self._pieces, "")):
            kept.append(piece)
            found += len(piece)
        self._text = "".join(kept)
        return found > 0
