"""Reading a file that may be anything: a pipe without a writer, a device without end, a gzip bomb.

All text that modelkit reads comes through here, so that a file costs bounded memory and time, and every way to fail is
said in words.
"""

from __future__ import annotations

import codecs
import io
import os
import stat
import sys
import time
import zlib
from collections.abc import Iterator

from modelkit.errors import Fault, InputError, UsageError, shown

#: Largest text that is read at once, after decompression [byte]; a million requests in columns take half.
MOST_BYTES = 2**26
#: Largest table that is read line by line, after decompression [byte], its most lines, and its longest [character].
MOST_TABLE_BYTES = 2**28
MOST_LINES = 2_000_000
LONGEST_LINE = 2**20
#: The same of a trace, of whose rows only those that are asked for are kept.
MOST_TRACE_BYTES = 2**33
MOST_TRACE_LINES = 100_000_000
#: Gzip files can be concatenated; more members than this indicate a malicious file.
MOST_MEMBERS = 10_000
#: Seconds that a named pipe may be without a writer.
PIPE_TIMEOUT = 2.0


_PIECE = 2**20
_GZIP = b"\x1f\x8b"
#: First bytes of what people take for text, what it is, and how it becomes text.
_FOREIGN = (
    (b"\xfd7zXZ\0", "xz data", "unpack it with `xz -d`"),
    (b"BZh", "bzip2 data", "unpack it with `bunzip2`"),
    (b"\x28\xb5\x2f\xfd", "zstd data", "unpack it with `zstd -d`"),
    (b"\x04\x22\x4d\x18", "lz4 data", "unpack it with `lz4 -d`"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it with `7z x`"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "unpack it, or save the sheet as CSV"),
    (b"PAR1", "a Parquet table", "write it as CSV, such as with pandas.read_parquet(...).to_csv(...)"),
    (b"ARROW1", "an Arrow table", "write it as CSV, such as with pandas.read_feather(...).to_csv(...)"),
    (b"\x89HDF", "an HDF5 file", "write its table as CSV"),
    (b"SQLite format 3", "a SQLite database", "write its table as CSV"),
    (b"%PDF", "a PDF document", "give the table itself"),
    (b"\xff\xfe\0\0", "UTF-32 text", "save it as UTF-8"),
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8"),
)
_LONGEST_MARK = max(len(mark) for mark, _, _ in _FOREIGN)


def where_of(source: str | os.PathLike[str]) -> str:
    """What to call a file in messages."""
    if not isinstance(source, str | os.PathLike):
        raise UsageError(f"found {shown(source)} where a file's path is wanted")
    return "standard input" if os.fspath(source) == "-" else os.fspath(source)


def read_bytes(source: str | os.PathLike[str], most: int = MOST_BYTES) -> bytes:
    """Content of a file, or of standard input for ``-``; gzip is known by its first bytes and decompressed.

    Raises
    ------
    InputError
        More than ``most`` bytes, or damaged gzip data.
    UsageError
        The file cannot be opened or read.
    """
    return b"".join(_content(source, most))


def read_text(source: str | os.PathLike[str], most: int = MOST_BYTES) -> str:
    """Text of a file without its byte order mark; see `read_bytes`.

    Raises
    ------
    InputError
        Not UTF-8, or as in `read_bytes`.
    UsageError
        The file cannot be opened or read.
    """
    raw = read_bytes(source, most)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fault = Fault("$", f"not UTF-8 text: byte {error.start} is 0x{raw[error.start]:02x}")
        raise InputError(where_of(source), [fault]) from None


def read_head(source: str | os.PathLike[str], most: int) -> str:
    """The first ``most`` bytes of a text, decompressed, with marks in place of what is not UTF-8.

    Raises
    ------
    InputError
        It begins as data of another kind do, or as damaged gzip data.
    UsageError
        The file cannot be opened or read.
    """
    head = b""
    for piece in _content(source, MOST_TRACE_BYTES):
        head += piece
        if len(head) >= most:
            break
    return head[:most].decode("utf-8-sig", "replace")


def read_pieces(source: str | os.PathLike[str], most: int) -> Iterator[str]:
    """Text of a file piece by piece, none of them empty, without its byte order mark; see `read_bytes`.

    Raises
    ------
    InputError
        Not UTF-8, with its line, or as in `read_bytes`.
    UsageError
        The file cannot be opened or read.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line = 1

    def decoded(raw: bytes, *, final: bool = False) -> str:
        try:
            return decoder.decode(raw, final)
        except UnicodeDecodeError as error:
            place = f"line {line + error.object[: error.start].count(10)}"
            words = f"not UTF-8 text: found 0x{error.object[error.start]:02x}"
            raise InputError(where_of(source), [Fault(place, words)]) from None

    for raw in _content(source, most):
        if piece := decoded(raw):
            yield piece
            line += piece.count("\n")
    if piece := decoded(b"", final=True):
        yield piece


def read_lines(
    source: str | os.PathLike[str], *, most: int = MOST_LINES, most_bytes: int = MOST_TABLE_BYTES
) -> Iterator[str]:
    """Lines of a table with their ends; the file is read no further than they are asked for.

    Parameters
    ----------
    most, most_bytes
        Lines, and bytes after decompression, that are read at most.

    Raises
    ------
    InputError
        Not UTF-8, damaged gzip data, or beyond this module's limits for tables.
    UsageError
        The file cannot be opened or read.
    """
    number = 0

    def refused(words: str) -> InputError:
        return InputError(where_of(source), [Fault(f"line {number + 1}", words)])

    stream = io.BufferedReader(_Stream(_content(source, most_bytes)), _PIECE)
    text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
    with text:
        while True:
            try:
                line = text.readline(LONGEST_LINE + 1)
            except UnicodeDecodeError:
                raise refused("not UTF-8 text, here or in the lines that follow") from None
            if not line:
                return
            if len(line) > LONGEST_LINE:
                raise refused(f"longer than {LONGEST_LINE:,} characters")
            if number == most:
                raise refused(f"more than {most:,} lines, the most that are read")
            number += 1
            yield line


class _Stream(io.RawIOBase):
    """Pieces as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        self._rest = self._rest or next(self._pieces, b"")
        taken = min(len(buffer), len(self._rest))
        buffer[:taken] = self._rest[:taken]
        self._rest = self._rest[taken:]
        return taken


def _content(source: str | os.PathLike[str], most: int) -> Iterator[bytes]:
    """Pieces of the content, none of them empty, ``most`` bytes in all."""
    where = where_of(source)
    total = 0
    head = b""
    try:
        for piece in _inflated(_pieces(source)):
            if len(head) < _LONGEST_MARK:
                head += piece[:_LONGEST_MARK]
                _refuse_foreign(where, head)
            total += len(piece)
            if total > most:
                raise InputError(where, [Fault("$", f"holds more than {most // 1024:,} KiB, the most that is read")])
            if piece:
                yield piece
    except (EOFError, zlib.error) as error:
        raise InputError(where, [Fault("$", f"the gzip data are damaged or cut off ({error})")]) from None
    except OSError as error:
        raise UsageError(f"cannot read {where}: {error.strerror or error}") from None
    except ValueError as error:  # a null byte in the name
        raise UsageError(f"cannot read {where!r}: {error}") from None


def _refuse_foreign(where: str, head: bytes) -> None:
    """Raise when data begin as those of a format that is no UTF-8 text."""
    for mark, name, advice in _FOREIGN:
        if head.startswith(mark):
            raise InputError(where, [Fault("$", f"{name}, not UTF-8 text; {advice}")])
    if len(head) >= 4 and (not any(head[:4:2]) or not any(head[1:4:2])) and any(head[:4]):  # without its mark
        raise InputError(where, [Fault("$", "UTF-16 text, not UTF-8 text; save it as UTF-8")])


def _pieces(source: str | os.PathLike[str]) -> Iterator[bytes]:
    """What the file holds, piece by piece."""
    if os.fspath(source) == "-":
        if sys.stdin is None:
            raise OSError(0, "it is closed")
        while piece := sys.stdin.buffer.read(_PIECE):
            yield piece
        return
    number = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        if stat.S_ISFIFO(os.fstat(number).st_mode):
            yield _first_of_pipe(number)
        os.set_blocking(number, True)
        while piece := os.read(number, _PIECE):
            yield piece
    finally:
        os.close(number)


def _first_of_pipe(number: int) -> bytes:
    """What a named pipe gives first; nothing when it has a writer that is slow."""
    deadline = time.monotonic() + PIPE_TIMEOUT
    while time.monotonic() < deadline:
        try:
            piece = os.read(number, _PIECE)
        except BlockingIOError:
            return b""
        if piece:
            return piece
        time.sleep(0.02)
    raise OSError(0, "no program writes to this pipe")


def _inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces, decompressed when they begin as gzip data do."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= len(_GZIP):
            break
    if not head.startswith(_GZIP):
        yield head
        yield from pieces
        return
    members = 0
    member = None
    piece = head
    while piece:
        if member is None:
            piece = piece.lstrip(b"\0")  # what some tapes and tools fill up with
            if piece:
                members += 1
                if members > MOST_MEMBERS:
                    raise zlib.error(f"more than {MOST_MEMBERS:,} members")
                member = zlib.decompressobj(wbits=31)
        if member is not None:
            yield member.decompress(piece, _PIECE)
            piece = member.unused_data if member.eof else member.unconsumed_tail
            if member.eof:
                member = None
        piece = piece or next(pieces, b"")
    if member is not None:
        while rest := member.decompress(member.unconsumed_tail, _PIECE):
            yield rest
        if not member.eof:
            raise EOFError("the end of a member is missing")
