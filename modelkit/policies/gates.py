"""Gates: prompts are held back until enough of them wait, and then let in together.

Every iteration that reads prompts costs the fixed part of a prefill, and all requests in progress wait through it.
Prompts that are let in together share that part. A gate stands before any policy of continuous batching and leaves
open whom the policy admits, and in which order: it only says *when* the policy is asked.

``gate=K, wait=W``
    The gate is open while at least K requests wait, or the first of them has waited W seconds (rounds under the unit
    clock); 0 leaves that condition out. Who is evicted waits anew. An idle server delays no request by
    a prefill, so its gate is open: no request waits for ever.

``gate=auto``
    K and W follow from the clock and the load seen so far, by the rule below. ``wait`` given with it
    takes the place of W. Under the unit clock, where a prompt costs no time of its own, the gate stays open.

The rule of ``gate=auto``. Let prompts of mean length s come at the rate λ, and be let in every T milliseconds. Of N
requests in progress each iteration produces a token; it lasts τ = B + d N + τ (λ p1 s + p0 / T), where B is what an
iteration with decoding costs at least, d what a request adds to it, and p0 and p1 are a prefill's fixed part and its
time for a token. With outputs of mean length o, Little's law says N = λ o τ, hence

    N (1 - λ o d - λ p1 s - p0 / T) = λ o B,    and the bracket is B / τ, the share of time that B takes.   (1)

So the base is paid by whatever time is left, and what the gate saves of p0 / T comes back amplified by τ / B:
dN / dT = -N (τ / B) p0 / T². Against that stand λ T requests who have waited T / 2 at the gate on average and then
wait through each other's prompts, λ T p1 s: in all λ T c with c = 1/2 + λ p1 s. The number of requests in the system,
and with it by Little's law the mean latency, is least where the two balance, as in the square-root law for the size
of orders in a warehouse:

    T² = p0 N (τ / B) / (λ c).                                                                             (2)

No output length is left in it. N is the number in progress; an iteration without prompts lasts τ' = B + d N in the
present state, and τ = τ' + τ (λ p1 s + p0 / T), so with g = 1 - λ p1 s equation (2) reads

    g T² - p0 T = p0 N τ' / (B λ c),                                                                       (3)

a quadratic with one positive root T; K = λ T, rounded, and W = T, the time in which K requests come. λ is that of the
last 64 arrivals, and falls while nobody comes; s is the mean of all prompts so far. Of a clock with levels p0 is the
cheapest, and p1 = 0. Where the prompts alone take all time (g <= 0), or nothing is paid once (p0 = 0 or B = 0), there
is nothing to balance, and the gate is open.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any

from modelkit.errors import UsageError, shown
from modelkit.policies.base import Policy, Seen, View
from modelkit.registry import Option

#: What every policy of continuous batching takes beside its own options.
GATE_OPTIONS = (
    Option("gate", "admit once this many requests wait; auto: set by the clock and the load", int, 0, ("auto",)),
    Option("wait", "admit once the first has waited so long [s, or rounds]", float, 0.0),
)

#: Arrivals from which `AutoGate` knows the load.
_RECENT = 64


def gate_policy(inner: Policy, gate: Any = 0, wait: float = 0.0) -> Policy:
    """``inner`` behind a gate; itself where neither is given.

    Parameters
    ----------
    gate
        Requests that open it, or ``"auto"``; 0: no number does.
    wait
        Seconds, or rounds under the unit clock, after which the first to wait opens it; 0: no time does.

    Raises
    ------
    UsageError
        A number below 0, or not finite.
    """
    if not 0 <= wait < math.inf:
        raise UsageError(f"option wait: found {wait}; allowed: 0 or more seconds (rounds under the unit clock)")
    if gate == "auto":
        return AutoGate(inner, wait)
    if isinstance(gate, str) or gate < 0:
        raise UsageError(f"option gate: found {shown(gate)}; allowed: a whole number from 0 on, or auto")
    return Gate(inner, gate or math.inf, wait or math.inf) if gate or wait else inner


class Gate(Policy):
    """A policy that is asked only while enough requests wait.

    Parameters
    ----------
    inner
        Who decides whom to admit while the gate is open.
    size
        Requests that open it.
    wait
        Seconds, or rounds under the unit clock, that the first of them waits at most.
    """

    def __init__(self, inner: Policy, size: float, wait: float) -> None:
        self._inner = inner
        self.pauses = inner.pauses
        self._size = size
        self._wait = wait
        self._since: dict[int, float] = {}  # when each began to wait
        self._order: deque[tuple[float, int]] = deque()  # the same, in time order; stale entries are passed over
        self._evicted = -math.inf  # moment of the last eviction

    def arrived(self, request: Seen) -> None:
        since = max(request.arrival, self._evicted)
        self._since[request.number] = since
        self._order.append((since, request.number))
        self._inner.arrived(request)

    def started(self, request: Seen, now: float) -> None:
        del self._since[request.number]
        self._inner.started(request, now)

    def ended(self, request: Seen, now: float) -> None:
        self._inner.ended(request, now)

    def outgrew(self, request: Seen, now: float) -> None:
        self._inner.outgrew(request, now)

    def postponed(self, request: Seen, start: int) -> None:
        self._inner.postponed(request, start)

    def admit(self, view: View) -> Iterable[int]:
        return self._inner.admit(view) if self._opens(view) <= view.now else ()

    def patience(self, view: View) -> int | None:
        return self._inner.patience(view) if self._opens(view) <= view.now else None

    def alarm(self, view: View) -> float | None:
        moment = self._opens(view)
        if moment <= view.now:
            return self._inner.alarm(view)
        return moment if moment < math.inf else None

    def evict(self, view: View) -> Iterable[int]:
        self._evicted = view.now
        return self._inner.evict(view)

    def pause(self, view: View) -> Iterable[int]:
        return self._inner.pause(view)

    def resume(self, view: View) -> Iterable[int]:
        return self._inner.resume(view)

    def paused(self, request: Seen, now: float) -> None:
        self._inner.paused(request, now)

    def resumed(self, request: Seen, start: int) -> None:
        self._inner.resumed(request, start)

    def limits(self, view: View) -> tuple[float, float]:
        """Requests that open the gate, and how long the first of them waits at most."""
        return self._size, self._wait

    def _opens(self, view: View) -> float:
        """When the gate opens if nothing happens; now or earlier where it is open."""
        if not view.running or not self._since:
            return view.now
        size, wait = self.limits(view)
        if len(self._since) >= size:
            return view.now
        while self._since.get(self._order[0][1]) != self._order[0][0]:
            self._order.popleft()
        return self._order[0][0] + wait


class AutoGate(Gate):
    """A gate whose limits follow from the clock and the load by equation (3).

    Parameters
    ----------
    wait
        In place of the rule's; 0: the rule's.
    """

    def __init__(self, inner: Policy, wait: float = 0.0) -> None:
        super().__init__(inner, 1, wait)
        self._recent: deque[float] = deque(maxlen=_RECENT)  # arrivals
        self._seen = self._tokens = 0  # arrivals and their prompt tokens

    def arrived(self, request: Seen) -> None:
        if request.arrival > self._evicted:  # and not evicted
            self._recent.append(request.arrival)
            self._seen += 1
            self._tokens += request.prompt
        super().arrived(request)

    def limits(self, view: View) -> tuple[float, float]:
        period = self._period(view)
        rate = len(self._recent) / max(view.now - self._recent[0], 1e-9)
        return max(1, math.floor(rate * period + 0.5)), self._wait or period

    def _period(self, view: View) -> float:
        """T of equation (3) [s]; 0 where there is nothing to balance."""
        clock = view.linear_clock
        elapsed = (view.now - self._recent[0]) * 1000
        if clock is None or elapsed <= 0:
            return 0.0
        rate = len(self._recent) / elapsed
        reading = rate * clock.prefill_per_token_ms * self._tokens / self._seen  # λ p1 s
        fixed = clock.prefill_ms(0) - (clock.base_ms if clock.mixed else 0)
        base = clock.base_ms + clock.decode_base_ms
        if reading >= 1 or not base:
            return 0.0
        active = len(view.running)
        iteration = clock.decode_ms(1, active, view.held + active)
        share = fixed * active * iteration / (base * rate * (0.5 + reading))
        left = 1 - reading
        return (fixed + math.sqrt(fixed**2 + 4 * left * share)) / (2 * left) / 1000
