"""What SGLang does: prefills first, admission by an estimate of the outputs to come, retraction of the youngest.

Zheng et al., SGLang: Efficient Execution of Structured Language Model Programs, NeurIPS 2024, and the scheduler of
SGLang 0.4 with its defaults: prompts are read as soon as somebody can be admitted, before any decoding; a newcomer
counts with its prompt and its whole output, those in progress with a share of what is left of theirs. Once somebody
does not fit, nobody is admitted until a request ends. The share begins at 0.7, falls to 0.098 within 600 iterations,
begins anew on an empty server, and is estimated after a retraction, from the outputs so far and 20 tokens more for each
request. When the cache is full, those with the fewest tokens produced make room, of two the one with the longer prompt,
and wait last.

``preempt=swap`` and ``preempt=pause`` keep the tokens of whom makes room, out of the cache or in it, as ``vllm-like``
does; who is paused goes on before newcomers, once the share of the outputs to come is free beside it.

Different from SGLang: predicted outputs stand for the largest that users allow; a retracted request starts anew, where
SGLang keeps its tokens and reads them again; there is no tree of prefixes; and where the clock is mixed, requests in
progress decode in the iteration that reads prompts, for an iteration is all that the clock knows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator

from modelkit.errors import UsageError
from modelkit.policies import Leaving, Policy, Room, Running, Seen, View, policy
from modelkit.policies.vllm import PREEMPTIONS, back_in_order, paused_instead

#: Tokens that an output counts with at most.
_MOST = 4096
#: Least share, as a part of the first; iterations in which it falls so far; tokens more after a retraction.
_LEAST, _STEPS, _MORE = 0.14, 600, 20


@policy(
    "sglang-like",
    summary="arrival order; admit by a share of the outputs to come that decays; on overflow retract the youngest",
    reference="Zheng et al., NeurIPS 2024 (SGLang), the scheduler of SGLang 0.4",
    preempt="what becomes of whom makes room; swap and pause where the server keeps tokens so|recompute|swap|pause",
    conservativeness="factor of the share of the outputs to come that is kept free, above 0",
)
class SglangLike(Policy):
    """First come, first served, by estimates."""

    def __init__(self, *, conservativeness: float = 1.0, preempt: str = "recompute") -> None:
        self.pauses = PREEMPTIONS[preempt]
        if not 0 < conservativeness < math.inf:
            raise UsageError(f"option conservativeness: found {conservativeness}; allowed: above 0")
        self._first = min(1.0, 0.7 * conservativeness)
        self._share, self._set_in = self._first, 0  # and in which round it was so
        self._waiting: deque[Seen] = deque()
        self._full = False

    def arrived(self, request: Seen) -> None:
        self._waiting.append(request)

    def ended(self, request: Seen, now: float) -> None:
        self._full = False

    def admit(self, view: View) -> Iterator[int]:
        if view.paused:
            return
        if not view.running:
            self._share, self._set_in, self._full = self._first, view.round, False
        if self._full:
            return
        room, alone = Room(view), not view.running
        free = next_round = math.inf
        if view.capacity is not None:
            to_come = sum(_left(entry, view.round) for entry in view.running.values())
            free = view.capacity - view.held - self.share(view.round) * to_come
            next_round = view.capacity - view.held - len(view.running)
        while self._waiting:
            request = self._waiting[0]
            free -= view.taken(request) + min(request.predicted_upper, _MOST)
            next_round -= view.taken(request) + 1
            self._full = not alone and (free <= 0 or next_round < 0)
            if self._full or not room.takes(request):
                return
            self._waiting.popleft()
            alone = False
            yield request.number

    def patience(self, view: View) -> int | None:
        return None if self._full or view.free_slots == 0 else 1

    def share(self, now: int) -> float:
        """Of the outputs to come that is kept free for those in progress."""
        fallen = (now - self._set_in) * self._first * (1 - _LEAST) / _STEPS
        return max(self._first * _LEAST, self._share - fallen)

    def pause(self, view: View) -> Iterator[int]:
        if self.pauses is not None and view.capacity is not None and view.held + len(view.running) > view.capacity:
            self._full = True
            yield from paused_instead(view, self._retract(view))

    def resume(self, view: View) -> Iterator[int]:
        free = 0.0
        if view.capacity is not None and view.running:
            free = self.share(view.round) * sum(_left(entry, view.round) for entry in view.running.values())
        yield from back_in_order(view, free, view.paused.values())

    def evict(self, view: View) -> Iterable[int]:
        return super().evict(view) if self.pauses == "held" else self._retract(view)

    def _retract(self, view: View) -> Iterator[int]:
        left, leaving = dict(view.running), Leaving(view)
        excess = view.held + len(left) - (view.capacity or 0)
        for number, _ in sorted(left.items(), key=lambda item: _youngest(item[1], view.round)):
            if excess <= 0:
                break
            del left[number]
            excess -= leaving.frees(number)
            yield number
        made = sum(_made(entry, view.round) for entry in left.values())
        most = sum(min(entry.request.predicted_upper, _MOST) for entry in left.values())
        self._share, self._set_in = min(1.0, (made + _MORE * len(left)) / (most + 1)), view.round


def _made(entry: Running, now: int) -> int:
    """Tokens produced."""
    return max(0, now - int(entry.start))


def _left(entry: Running, now: int) -> int:
    """Tokens to come."""
    return max(0, min(entry.request.predicted_upper, _MOST) - _made(entry, now))


def _youngest(entry: Running, now: int) -> tuple[int, int]:
    return _made(entry, now), -entry.request.prompt
