"""Policies of the literature that time prefills in continuous batching.

They admit in arrival order and differ in the moment. Their papers count places in a batch; where memory is the limit
here, the look-ahead of `mc-sf` holds newcomers back, as it does in the other policies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from heapq import heappop
from itertools import islice

from modelkit.errors import UsageError
from modelkit.policies import Room, Seen, View, policy
from modelkit.policies.lookahead import LookAhead
from modelkit.policies.slots import idle_share

_ALPHA = "share of M kept free of new requests, in case predictions fail"


class _InArrivalOrder(LookAhead):
    """Arrival order with look-ahead, and the mean lengths seen so far."""

    def __init__(self, *, alpha: float = 0.0) -> None:
        super().__init__(alpha=alpha)
        self._count = self._prompts = self._outputs = 0

    def key(self, request: Seen) -> float:
        """Arrival."""
        return request.arrival

    def arrived(self, request: Seen) -> None:
        super().arrived(request)
        self._count += 1
        self._prompts += request.prompt
        self._outputs += request.predicted_upper


@policy(
    "eb",
    summary="arrival order, up to a batch that the cache holds; newcomers wait until a fixed share of it is free",
    reference="Zhang, Nie, Pang, Ma, Wu, arXiv 2606.00516, EB(k*), by the account that comes with the authors' code",
    work_conserving=False,
    risk="chance that the batch overflows the cache, by the paper's estimate, above 0",
    alpha=_ALPHA,
)
class ExclusiveBatchingByMemory(_InArrivalOrder):
    """`exclusive-batching` where memory limits the batch, not slots.

    The batch goes between N and N - k requests: once k = floor(theta N) places are free, newcomers fill it. With p0 the
    chance that a request ends in a round (1 / mean predicted output), mu the mean prompt, of those seen, and alpha_p
    and alpha_d the fixed durations of a prefill and of an iteration with decoding,

        theta / (1 - theta) + ln(1 - theta) = p0 alpha_p / alpha_d,
        N = floor((M - ln(1 / risk) / (p0^2 mu)) / (mu + (1 - theta) / (theta p0) ln(1 / (1 - theta)))).

    Different from the paper: requests in progress decode in the iteration that reads prompts where the clock is mixed;
    the look-ahead of `mc-sf` holds newcomers back as well; and theta is that of a constant p0, without the correction
    for outputs whose end becomes more likely with every token.
    """

    def __init__(self, *, risk: float = 0.01, alpha: float = 0.0) -> None:
        super().__init__(alpha=alpha)
        if not 0 < risk <= 1:
            raise UsageError(f"option risk: found {risk}; allowed: above 0, up to 1")
        self._risk = risk

    def admit(self, view: View) -> Iterator[int]:
        size, places = self.batch(view)
        if not view.running or size - len(view.running) >= places:
            yield from islice(super().admit(view), int(min(max(1, size - len(view.running)), 1 << 62)))

    def patience(self, view: View) -> int | None:
        size, places = self.batch(view)
        return super().patience(view) if size - len(view.running) >= places else None

    def batch(self, view: View) -> tuple[float, float]:
        """N and k."""
        mu, mean = self._prompts / self._count, self._outputs / self._count
        theta, size = self._theta(view), math.inf
        if view.capacity is not None:
            lasting = (theta - 1) / theta * math.log1p(-theta) if 0 < theta < 1 else 1 - theta
            size = max(1, (view.capacity - math.log(1 / self._risk) * mean**2 / mu) // (mu + lasting * mean))
        if view.free_slots is not None:
            size = min(size, len(view.running) + view.free_slots)
        return size, max(1, math.floor(theta * size)) if size < math.inf else 1

    def _theta(self, view: View) -> float:
        clock = view.linear_clock
        if clock is None:
            return 0.0
        fixed = clock.prefill_ms(0) - (clock.base_ms if clock.mixed else 0)
        base = clock.base_ms + clock.decode_base_ms
        return idle_share(fixed / base * self._count / self._outputs) if base else 1.0


class _Tiles(_InArrivalOrder):
    """An iteration reads a tile of prompt tokens at most, or one longer prompt; split prompts one after the other."""

    def __init__(self, *, tile: int, alpha: float) -> None:
        super().__init__(alpha=alpha)
        if tile < 1:
            raise UsageError(f"option tile: found {tile}; allowed: 1 or more")
        self._tile = tile

    def tile(self, view: View) -> Iterator[Seen]:
        """Who may start in the iteration ahead; nobody while a prompt is still being read."""
        if view.chunked and any(start >= view.round for _, start in view.running.values()):
            return
        room, left = Room(view), self._tile
        while self._waiting:
            request = self._waiting[0][-1]
            if left < self._tile and (view.chunked or view.unread(request) > left):
                return
            if not self.fits(request, view) or not room.takes(request):
                return
            heappop(self._waiting)
            left -= view.unread(request)
            yield request


@policy(
    "rad",
    summary="decode, unless a prompt waits and there is room: then also one tile of the oldest prompts",
    reference="Bari, Hegde, de Veciana, arXiv 2508.01002, RAD (resource-aware dynamic); our reading",
    tile="prompt tokens that fill a tile; with chunked prefill --max-batch-tokens is the tile",
    alpha=_ALPHA,
)
class Rad(_Tiles):
    """A mixed iteration whenever somebody can start, a tile of prompt in it.

    Our reading of the paper's abstract and of accounts of it: whatever the load, an iteration with prompts reads one
    tile, the number of tokens that the hardware multiplies at its best rate, and the batch is refilled as soon as it
    has room. Where the engine splits prompts, the tile is what an iteration takes; where it does not, prompts are read
    whole, the oldest as long as they fill no more than a tile, and one longer prompt by itself.
    """

    def __init__(self, *, tile: int = 512, alpha: float = 0.0) -> None:
        super().__init__(tile=tile, alpha=alpha)

    def admit(self, view: View) -> Iterator[int]:
        return (request.number for request in self.tile(view))

    def patience(self, view: View) -> int | None:
        return 1


@policy(
    "gate-and-route",
    summary="one tile of the oldest prompts at a time, while prompts take no more than their share of a busy time",
    reference="Lin, Ding, Han, Zhang, arXiv 2602.02987, the gate for one server; our reading",
    work_conserving=False,
    tile="prompt tokens that an iteration with prompts reads (C)",
    alpha=_ALPHA,
)
class GateAndRoute(_Tiles):
    """Prompts are let in as fast as the requests in progress end, and no faster.

    Our reading of the fluid limit, for one server and one class of mean lengths P and D, seen so far: in a share x of
    the time an iteration lasts t_m, reads C prompt tokens and decodes for B - 1 requests; else it lasts t_s and
    decodes for B, as many as the cache holds at half their output. In balance as many prompts are read as outputs end,

        x C / (P t_m) = ((B - 1) x / t_m + B (1 - x) / t_s) / D,

    which gives x. Newcomers are let in while iterations with prompts have taken no more than x of the busy time, from
    when somebody was last admitted to an empty server. Routing has no meaning on one server.
    """

    def __init__(self, *, tile: int = 512, alpha: float = 0.0) -> None:
        super().__init__(tile=tile, alpha=alpha)
        self._since = self._mixed = 0.0  # busy since; time of iterations with prompts since then

    def admit(self, view: View) -> Iterator[int]:
        if not view.running:
            self._since, self._mixed = view.now, 0.0
        if self._opens(view) > view.now:
            return
        active, tokens = len(view.running), 0
        for request in self.tile(view):
            tokens += view.unread(request)
            yield request.number
        if tokens:
            self._mixed += self._lasts(view, tokens, active)

    def patience(self, view: View) -> int | None:
        return 1 if self._opens(view) <= view.now else None

    def alarm(self, view: View) -> float | None:
        opens = self._opens(view)
        return opens if view.now < opens < math.inf else None

    def _opens(self, view: View) -> float:
        """When the share of prompts is low enough again; now or earlier where it is."""
        return self._since + self._mixed / self.prompt_share(view) if view.running else view.now

    def prompt_share(self, view: View) -> float:
        """x, above 0."""
        prompt, output = self._prompts / self._count, self._outputs / self._count
        batch = len(view.running) + 1.0
        if view.capacity is not None:
            batch = max(1.0, view.capacity / (prompt + output / 2))
        if view.free_slots is not None:
            batch = min(batch, len(view.running) + view.free_slots)
        mixed, solo = self._lasts(view, self._tile, round(batch) - 1), self._lasts(view, 0, round(batch))
        if not mixed or not solo:
            return 1.0
        ending = (self._tile * output / prompt - (batch - 1)) / mixed + batch / solo
        return min(1.0, batch / solo / max(ending, batch / solo))

    def _lasts(self, view: View, prompts: int, active: int) -> float:
        """Duration of an iteration [s or rounds], at the mean tokens held."""
        if view.linear_clock is None:
            return 1.0
        held = round(active * (self._prompts + self._outputs / 2) / self._count)
        clock = view.linear_clock
        if clock.mixed or not prompts:
            return clock.iterations_ms(1, prompts, active, held) / 1000
        return (clock.prefill_ms(prompts) + clock.decode_ms(1, active, held)) / 1000
