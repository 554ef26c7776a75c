"""Finding the instance that a file is about: by its hash, beside the file or among those that modelkit ships."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from modelkit.errors import ModelkitError
from modelkit.instance import Instance, InstanceStamp
from modelkit.io import load
from modelkit.runtime.resources import bundled

#: Endings of files that hold no instance.
_OTHERS = (".result.json", ".certificate.json")
#: What is read of a folder in all, the smallest files first [byte].
_MOST_BYTES = 2**24
#: How often a byte of a compressed file counts.
_COMPRESSED = 10


class Instances:
    """Instances by hash. Each file is read at most once, and only when an instance is asked for.

    Parameters
    ----------
    folders
        Where instance files may lie; what modelkit ships is looked through last.
    known
        Instances that are at hand already.
    """

    def __init__(self, folders: Iterable[Path] = (), known: Iterable[Instance] = ()) -> None:
        self._found = {instance.sha256: instance for instance in known}
        self._files = self._candidates([*dict.fromkeys(folders), bundled("instances")])

    def find(self, stamp: InstanceStamp) -> Instance | None:
        """The instance of that hash, None when no file holds it."""
        named = self._in_library(stamp.name)
        while stamp.sha256 not in self._found:
            path = next(named, None) or next(self._files, None)
            if path is None:
                return None
            try:
                candidate = load(path)
            except ModelkitError:
                continue
            self._found[candidate.sha256] = candidate
        return self._found[stamp.sha256]

    @staticmethod
    def _in_library(name: str) -> Iterator[Path]:
        """The file of this name in the library, which has too many to read them all."""
        known = bundled("instances") / "library"
        paths = (known / f"{name}{ending}" for ending in (".json", ".json.gz"))
        return (path for path in paths if path.parent == known and path.is_file())

    @staticmethod
    def _candidates(folders: list[Path]) -> Iterator[Path]:
        for folder in folders:
            sizes: dict[Path, int] = {}
            for path in sorted([*folder.glob("*.json"), *folder.glob("*.json.gz")]):
                with contextlib.suppress(OSError):  # a link to nowhere
                    if path.is_file() and not path.name.endswith(_OTHERS):
                        sizes[path] = path.stat().st_size * (_COMPRESSED if path.suffix == ".gz" else 1)
            left = _MOST_BYTES
            for path, size in sorted(sizes.items(), key=lambda item: item[1]):
                left -= size
                if left < 0:
                    break
                yield path
