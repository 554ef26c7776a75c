"""One loop over seeds in place of a test for each: many small cases without what each test costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def each(seeds: Iterable[int], check: Callable[[int], None]) -> None:
    """Run a check for every seed; where it fails the seed is a note of the failure."""
    for seed in seeds:
        try:
            check(seed)
        except BaseException as error:
            error.add_note(f"with seed {seed}")
            raise
