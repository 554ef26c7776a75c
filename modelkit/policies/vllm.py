"""What serving engines do: no predictions, arrival order, preemption by recomputation, by swapping or by pausing.

Kwon et al., Efficient Memory Management for Large Language Model Serving with PagedAttention, SOSP 2023, and the
scheduler of vLLM with its defaults as of version 0: memory in blocks of 16 tokens, of which a hundredth is kept
free of newcomers; the youngest request makes room, and nobody is admitted in the same step.

vLLM's option to admit a prompt only when all of it fits, not its first chunk, has no counterpart: here the memory of a
whole prompt is taken from its admission on, so it always must fit.

``preempt=swap`` is the other way that vLLM 0 had: whoever makes room is copied out of the cache, comes back in order of
arrival as soon as there is room beside the watermark, and until all are back no newcomer is admitted. ``preempt=pause``
is the same with tokens that stay in the cache: it only grows more slowly. Where one request alone cannot go on, the
latest paused is evicted.

Different from vLLM: memory runs out when the tokens exceed M, not the blocks; and an evicted request starts anew,
where vLLM computes its prompt and its tokens so far again in one prefill.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from modelkit.errors import UsageError
from modelkit.policies import Leaving, Paused, Policy, Room, Seen, View, policy, share

#: Where paused requests' tokens must be kept, by what becomes of whom makes room.
PREEMPTIONS = {"recompute": None, "swap": "swapped", "pause": "held"}


def paused_instead(view: View, victims: Iterable[int]) -> Iterator[int]:
    """Of those who run, who is to be paused so that the next round fits, in this order; one goes on."""
    excess, left = view.held + len(view.running) - (view.capacity or 0), len(view.running)
    for number in victims if view.keeps == "swapped" else reversed(list(view.running)):
        if excess <= 0 or left == 1:
            return
        request, start = view.running[number]
        excess -= 1 + (request.prompt + max(0, view.round - int(start)) if view.keeps == "swapped" else 0)
        left -= 1
        yield number


def back_in_order(view: View, kept_free: float, paused: Iterable[Paused]) -> Iterator[int]:
    """Who goes on, in this order up to the first that does not fit beside what is kept free of them."""
    held, running, slots = view.held, len(view.running), view.free_slots
    for request, made in paused:
        if view.keeps == "swapped":
            held += request.prompt + made
            slots = None if slots is None else slots - 1
        running += 1
        limit = math.inf if view.capacity is None else view.capacity - (kept_free if running > 1 else 0)
        if held + running > limit or (slots is not None and slots < 0):
            return
        yield request.number


@policy(
    "vllm-like",
    summary="arrival order; admit while memory blocks are free; on overflow evict the youngest and restart it",
    reference="Kwon et al., SOSP 2023 (PagedAttention), the scheduler of vLLM 0",
    block="tokens in a block",
    watermark="share of the blocks kept free of new requests",
    preempt="what becomes of whom makes room; swap and pause where the server keeps tokens so|recompute|swap|pause",
    victim="which to evict: the latest admitted, or the one with the fewest tokens to recompute|youngest|cheapest",
)
class VllmLike(Policy):
    """First come, first served, in blocks."""

    def __init__(
        self, *, block: int = 16, watermark: float = 0.01, victim: str = "youngest", preempt: str = "recompute"
    ) -> None:
        self.pauses = PREEMPTIONS[preempt]
        if block < 1:
            raise UsageError(f"option block: found {block}; allowed: 1 or more")
        self._cheapest = victim == "cheapest"
        self._block = block
        self._watermark = share("watermark", watermark)
        self._waiting: list[tuple[float, int, Seen]] = []
        self._evicted_in = -1  # round

    def arrived(self, request: Seen) -> None:
        heappush(self._waiting, (request.arrival, request.number, request))

    def admit(self, view: View) -> Iterator[int]:
        if view.round == self._evicted_in or view.paused:
            return
        room, held = Room(view), view.held
        free: float | None = None
        while self._waiting:
            _, number, request = self._waiting[0]
            held += view.taken(request)
            if view.capacity is not None and view.running:
                if held > view.capacity:  # spares counting the blocks
                    return
                if free is None:
                    free = self._free_blocks(view)
                free -= self._blocks(view.taken(request) + 1)
                if free < self._watermark * (view.capacity // self._block):
                    return
            if not room.takes(request):
                return
            heappop(self._waiting)
            if free is None:
                free = (view.capacity or 0) // self._block - self._blocks(request.prompt + 1)
            yield number

    def pause(self, view: View) -> Iterator[int]:
        if self.pauses is not None and view.capacity is not None and view.held + len(view.running) > view.capacity:
            self._evicted_in = view.round
            yield from paused_instead(view, self._fewest_tokens(view) if self._cheapest else super().evict(view))

    def resume(self, view: View) -> Iterator[int]:
        if view.round == self._evicted_in and view.running:
            return
        kept = self._watermark * (view.capacity or 0)
        yield from back_in_order(view, kept, sorted(view.paused.values(), key=lambda p: p.request[1::-1]))

    def evict(self, view: View) -> Iterator[int]:
        self._evicted_in = view.round
        cheapest = self._cheapest and self.pauses != "held"  # there the paused make room
        return self._fewest_tokens(view) if cheapest else iter(super().evict(view))

    def _fewest_tokens(self, view: View) -> Iterator[int]:
        """Those that hold the least, the later of two; who holds the most gets on."""
        excess, leaving = view.held + len(view.running) - (view.capacity or 0), Leaving(view)
        held = {n: request.prompt + view.round - int(start) for n, (request, start) in view.running.items()}
        order = list(held)[::-1]
        order.sort(key=held.__getitem__)
        for number in order:
            if excess <= 0:
                return
            excess -= leaving.frees(number)
            yield number

    def patience(self, view: View) -> int | None:
        return 1 if view.round == self._evicted_in else None  # until somebody ends, less and less fits

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self._block)

    def _free_blocks(self, view: View) -> int:
        """Blocks left beside those that the requests in progress hold after the round ahead."""
        now, block = view.round, self._block
        held = sum(-(-(request.own + now - int(start) + 1) // block) for request, start in view.running.values())
        return (view.capacity or 0) // block - held - self._blocks(view.prefixes.in_use)
