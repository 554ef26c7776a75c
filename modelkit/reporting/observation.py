"""What a log shows of the server whose instance a page is about."""

from __future__ import annotations

from dataclasses import dataclass

from modelkit.sources.logs.observed import AS_LOGGED, Observed

__all__ = ["AS_LOGGED", "Observation"]


@dataclass(frozen=True)
class Observation:
    """A run as logged, which is not judged, and what a page says of it.

    Parameters
    ----------
    headline
        The sentence that the page leads with.
    remarks
        Further sentences.
    table
        Header and rows of what the log is compared with, where there is more than the page has runs of.
    """

    run: Observed
    headline: str
    remarks: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], tuple[tuple[str, ...], ...]] | None = None
