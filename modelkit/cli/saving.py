"""How every command writes: what cannot be written is refused before the work, and what was made is kept after it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from modelkit.errors import UnwritableError, UsageError
from modelkit.runtime.interrupts import interrupts_held
from modelkit.text import file_name, shown_path

Write = Callable[[str], Path | None]


def check_outputs(outputs: Mapping[str, str | None], inputs: Iterable[str | None] = ()) -> None:
    """Refuse files that cannot be written, that are read too, or that two options name.

    Parameters
    ----------
    outputs
        By what asks for them: ``--output``. None is left out.
    inputs
        Files that the command reads; ``-`` and None are left out.

    Raises
    ------
    UsageError
        With everything that is wrong.
    """
    from modelkit.io import check_writable

    wanted = {option: path for option, path in outputs.items() if path is not None}
    read = [path for path in inputs if path not in (None, "-")]
    faults = []
    for option, path in wanted.items():
        faults += [f"{option} {shown_path(path)}: this file is read; name another" for i in read if _same(path, str(i))]
        try:
            check_writable(path)
        except UnwritableError as error:
            faults.append(f"{option}: {error}")
    pairs = list(wanted.items())
    faults += [
        f"{option} and {other} name the same file, {shown_path(path)}; name two"
        for k, (option, path) in enumerate(pairs)
        for other, its in pairs[k + 1 :]
        if _same(path, its)
    ]
    if faults:
        raise UsageError("\n  ".join([*dict.fromkeys(faults), "nothing was begun"]))


def _same(one: str, other: str) -> bool:
    if "-" in (one, other):
        return one == other
    return os.path.realpath(one) == os.path.realpath(other)


class Keeper:
    """Writes files; one that cannot be written goes to the temporary folder."""

    def __init__(self) -> None:
        self.lost: list[str] = []

    def __call__(self, write: Write, path: str, stand_in: str = "output") -> Path | None:
        """Write with ``write`` to ``path``; None when it went elsewhere, or to standard output.

        Parameters
        ----------
        stand_in
            Name in the temporary folder of what standard output did not take.
        """
        try:
            return write(path)
        except UnwritableError as error:
            self.lost.append(str(error))
        rescue = Path(tempfile.gettempdir()) / (stand_in if path == "-" else Path(path).name)
        if path != "-" and _same(path, str(rescue)):
            return None
        try:
            self.lost.append(f"it is kept in {write(str(rescue))}")
        except UnwritableError as error:
            self.lost.append(f"nor elsewhere: {error}")
        return None


@contextmanager
def keeping() -> Iterator[Keeper]:
    """Signals wait within the block, which writes and says what a command made; its end says what could not be written.

    Raises
    ------
    UnwritableError
        A file could not be written; the message says where it is kept.
    KeyboardInterrupt
        A signal came meanwhile.
    """
    keeper = Keeper()
    with interrupts_held() as held:
        try:
            yield keeper
        finally:
            if keeper.lost:
                raise UnwritableError("\n  ".join(keeper.lost))
    if held.pressed:
        raise KeyboardInterrupt


def in_folder(folder: str, name: str) -> str:
    """A file in a folder that is made when it is not there.

    Raises
    ------
    UsageError
        The folder cannot be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"--output {shown_path(folder)} is a file; name a folder for several results") from None
    except OSError as error:
        raise UsageError(f"cannot make the folder {shown_path(folder)}: {error.strerror or error}") from None
    return os.path.join(folder, name)


def file_stem(instance: str, name: str) -> str:
    """The beginning of the names of files about an instance."""
    if instance == "-":
        return safe(name) or "instance"
    return Path(instance).name.removesuffix(".gz").removesuffix(".json")


def safe(text: str) -> str:
    """Text as a part of a file name: letters, digits and ``-_.`` only."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text).strip(".-")


__all__ = ["Keeper", "check_outputs", "file_name", "file_stem", "in_folder", "keeping", "safe"]
