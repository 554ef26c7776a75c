"""Times of traces: stamps and numbers in ticks, and what speaks against a unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from modelkit.errors import shown

#: Times are counted in units of 100 ns, the finest that any of the formats writes.
TICKS_PER_SECOND = 10_000_000
#: Units of times that are numbers, in ticks.
TIME_UNITS = {
    "s": Fraction(TICKS_PER_SECOND),
    "ms": Fraction(TICKS_PER_SECOND, 10**3),
    "us": Fraction(TICKS_PER_SECOND, 10**6),
    "ns": Fraction(TICKS_PER_SECOND, 10**9),
}
#: Least mean time between requests in traces of services [s]; below it a unit is doubted.
SHORTEST_GAP = 0.01
#: Largest mean time between requests in traces of services [s]; above it a unit is doubted.
LONGEST_GAP = 100.0
#: Latest time that is read [s]; stamps since 1970 are below.
_LATEST = 10**11


def ticks_of_stamp(text: str) -> int:
    """A date and time in ticks; exact for the seven decimals that Azure writes. An offset from UTC is taken off.

    Raises
    ------
    ValueError, OverflowError
        It is none.
    """
    if is_number(text):  # some long numbers pass for dates without separators
        raise ValueError(text)
    whole, _, rest = text.partition(".")
    decimals = rest[: next((i for i, c in enumerate(rest) if not (c.isascii() and c.isdigit())), len(rest))]
    offset = rest[len(decimals) :]
    moment = datetime.fromisoformat(whole + offset)
    away = moment.utcoffset() or timedelta(0)
    since = moment.replace(tzinfo=None) - away - datetime(2000, 1, 1)
    return (since.days * 86_400 + since.seconds) * TICKS_PER_SECOND + int(decimals[:7].ljust(7, "0"))


def is_number(text: str) -> bool:
    """Whether a time is written as a number."""
    try:
        Decimal(text)
    except InvalidOperation:
        return False
    return True


def ticks_of_number(value: object, unit: str) -> tuple[int, bool]:
    """A number of time units in ticks, and whether it has a fraction.

    Raises
    ------
    ValueError
        It is no finite number, negative, or beyond all reason.
    """
    text = value if isinstance(value, str) else str(value) if type(value) is int else ""
    if text.isascii() and text.isdecimal() and len(text) < 12 and TIME_UNITS[unit].denominator == 1:
        ticks = int(text) * TIME_UNITS[unit].numerator  # most are such, and there may be millions
        if ticks <= _LATEST * TICKS_PER_SECOND:
            return ticks, False
    try:
        number = Decimal("nan" if isinstance(value, bool) else str(value).strip())
    except InvalidOperation:
        raise ValueError(value) from None
    if not number.is_finite() or number < 0 or number > Decimal(10) ** 30:
        raise ValueError(value)
    ticks = math.floor(Fraction(number) * TIME_UNITS[unit])
    if ticks > _LATEST * TICKS_PER_SECOND:
        raise ValueError(value)
    return ticks, number != number.to_integral_value()


def unit_doubt(ticks: Sequence[int], unit: str, fraction: object | None) -> str | None:
    """What speaks against a unit that was not stated; None when nothing does.

    Parameters
    ----------
    ticks
        Times as read in that unit.
    fraction
        A time that is no whole number, where there is one.

    Notes
    -----
    Ten requests or more, of a unit finer than seconds three, whose mean gap no service has are doubted; so are
    milliseconds with a fraction, unless they could not be seconds. Whole seconds are not doubted for a short gap: many
    requests may come within one.
    """
    span = (max(ticks) - min(ticks)) / TICKS_PER_SECOND if ticks else 0.0
    if not span:
        return None
    gap = span / (len(ticks) - 1)
    coarser = list(TIME_UNITS)[: list(TIME_UNITS).index(unit)]
    if coarser and len(ticks) >= 3 and gap < SHORTEST_GAP:
        gaps = {other: gap * float(TIME_UNITS[other] / TIME_UNITS[unit]) for other in reversed(coarser)}
        other = next((other for other, long in gaps.items() if long >= SHORTEST_GAP), "s")
        words = "seconds" if other == "s" else other
        return f"in {unit} they come one every {gap * 1000:.3g} ms, in {words} one every {gaps[other]:.3g} s"
    if not coarser and fraction is not None and len(ticks) >= 10 and gap < SHORTEST_GAP:
        return f"in s they come one every {gap * 1000:.3g} ms, in thousands of seconds one every {gap * 1000:.3g} s"
    if unit == "ms" and fraction is not None and gap * 1000 <= LONGEST_GAP:
        return f"{shown(fraction)} is no whole number of ms, and may be seconds"
    finer = list(TIME_UNITS)[list(TIME_UNITS).index(unit) + 1 :]
    if finer and len(ticks) >= 10 and gap > LONGEST_GAP:
        return f"in {unit} they come one every {gap:,.0f} s, in {finer[0]} one every {gap / 1000:.3g} s"
    return None
