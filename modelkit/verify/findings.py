"""What a verification comes to: faults, what was confirmed and what was not."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found wrong, what was confirmed, and what cannot be confirmed from these files.

    Parameters
    ----------
    faults, confirmed, unconfirmed
        One sentence each.
    checked, unchecked
        What the sentences are about, in a word each: ``metrics``, ``objective value``, ``log``.
    """

    faults: tuple[str, ...]
    confirmed: tuple[str, ...] = ()
    unconfirmed: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    @property
    def summary(self) -> str:
        """The outcome in one line: ``verified`` only of what was checked."""
        if not self.holds:
            return "refused"
        left = f"; not checked: {', '.join(self.unchecked)}" if self.unchecked else ""
        return f"verified: {', '.join(self.checked)}{left}"


@dataclass
class Findings:
    """What a verification has come to so far."""

    faults: list[str] = field(default_factory=list)
    confirmed: dict[str, str] = field(default_factory=dict)
    unconfirmed: dict[str, str] = field(default_factory=dict)

    def compare(self, what: str, stated: object, known: object) -> None:
        if stated != known:
            self.faults.append(f"{what}: the file says {stated!r}, it is {'nothing' if known is None else repr(known)}")

    def conclusion(self) -> Verification:
        return Verification(
            tuple(self.faults),
            tuple(self.confirmed.values()),
            tuple(self.unconfirmed.values()),
            tuple(self.confirmed),
            tuple(self.unconfirmed),
        )
