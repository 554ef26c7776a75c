"""Clocks of a simulation: the time after a number of rounds, and the rounds until a time.

Times are added as the judge adds them: from one change of what is in progress to the next in one sum.
"""

from __future__ import annotations

import math

from modelkit.clock import LinearClock, add_time


class UnitTime:
    """Every round lasts 1, and so does every round without requests."""

    linear_clock: LinearClock | None = None
    exclusive = False

    def __init__(self) -> None:
        self.now = 0
        self.round = 0

    def begin(self) -> float:
        """Moment of a segment that begins now."""
        return self.now

    def settle(self, active: int, held: int, prompt_tokens: int = 0) -> None:
        """Set how many requests decode, the tokens that they hold, and the prompt tokens of each round."""

    def run(self, rounds: int) -> None:
        """Run rounds of decoding."""
        self.now += rounds
        self.round += rounds

    def rounds_until(self, moment: float, most: int) -> int:
        """Least number of rounds, from 1 to ``most``, after which ``moment`` has come."""
        return max(1, min(most, int(moment) - self.now))

    def wait(self, moment: float) -> None:
        """Let time go by without requests."""
        self.run(max(0, int(moment) - self.now))

    def moment(self, arrival: float) -> float:
        """An arrival on this clock."""
        return arrival

    def seen(self) -> float:
        """Now, as a policy sees it."""
        return self.now


class LinearTime:
    """Iterations last what the cost model says; now in milliseconds, added up as in ``modelkit.judge``."""

    def __init__(self, clock: LinearClock) -> None:
        self.linear_clock = clock if clock.mixed else clock.folded()
        self.exclusive = not clock.mixed
        self.now = 0.0
        self.round = 0
        self._lost = 0.0  # by so much the sum of all durations is above its double, `now`
        self._since = 0.0, 0.0  # when what is in progress changed, and what was lost until then
        self._rounds = 0  # rounds run since then
        self._active = 0
        self._held = 0
        self._prompt_tokens = 0

    def begin(self) -> float:
        at = self.now / 1000
        while at * 1000 < self.now:
            at = math.nextafter(at, math.inf)
        self.wait(at * 1000)  # what a reader of the schedule makes of it
        return at

    def settle(self, active: int, held: int, prompt_tokens: int = 0) -> None:
        self._since, self._rounds, self._active, self._held = (self.now, self._lost), 0, active, held
        self._prompt_tokens = prompt_tokens

    def run(self, rounds: int) -> None:
        self.now, self._lost = self._after(rounds)
        self._rounds += rounds
        self.round += rounds

    def iterate(self, prompt_tokens: int, decoding: int, kv_tokens: int) -> None:
        """One iteration with prompts in it."""
        self._add(self.linear_clock.iterations_ms(1, prompt_tokens, decoding, kv_tokens))
        self.round += 1

    def prefill(self, prompt_tokens: int) -> None:
        """An exclusive prefill."""
        self._add(self.linear_clock.prefill_ms(prompt_tokens))

    def copy(self, duration: float) -> None:
        """Tokens of paused requests are copied."""
        self._add(duration)

    def _add(self, duration: float) -> None:
        self.now, self._lost = add_time(self.now, self._lost, duration)

    def _after(self, rounds: int) -> tuple[float, float]:
        """The time after this many more rounds, and what is lost of it."""
        rounds += self._rounds
        active = self._active
        kv_tokens = rounds * (2 * self._held + active + active * rounds) // 2
        if self.exclusive or not self._prompt_tokens:
            return add_time(
                *self._since, self.linear_clock.decode_ms(rounds, active * rounds, kv_tokens) if active else 0.0
            )
        return add_time(*self._since, self.linear_clock.iterations_ms(rounds, self._prompt_tokens, active, kv_tokens))

    def rounds_until(self, moment: float, most: int) -> int:
        if self._after(most)[0] < moment:
            return most
        low = 1
        while low < most:
            middle = (low + most) // 2
            if self._after(middle)[0] >= moment:
                most = middle
            else:
                low = middle + 1
        return most

    def wait(self, moment: float) -> None:
        if moment > self.now:
            self.now, self._lost = moment, 0.0

    def moment(self, arrival: float) -> float:
        return arrival * 1000

    def seen(self) -> float:
        return self.now / 1000
