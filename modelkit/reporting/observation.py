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
    """

    run: Observed
    headline: str
    remarks: tuple[str, ...] = ()
