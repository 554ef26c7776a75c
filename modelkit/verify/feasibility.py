"""Whether an instance has a schedule at all: what none can overcome, and one that is valid wherever nothing is odd."""

from __future__ import annotations

from modelkit.instance import Instance, LinearClock
from modelkit.schedule import MAX_ROUNDS, Admission, Schedule, Segment
from modelkit.text import count


def obstacles(instance: Instance) -> list[str]:
    """What no schedule can overcome, whatever the formulation; one sentence for each request at fault."""
    server = instance.server
    words = []
    if server.kv_capacity_tokens is not None:
        words += [
            f"request {r.id!r} needs {r.prompt_tokens} + {r.output_tokens} = {r.prompt_tokens + r.output_tokens} tokens"
            f" in its last round, the server has {server.kv_capacity_tokens}"
            for r in instance.requests
            if r.prompt_tokens + r.output_tokens > server.kv_capacity_tokens
        ]
    clock = server.clock
    if isinstance(clock, LinearClock) and not clock.mixed and (largest := clock.largest_prefill) is not None:
        words += [
            f"the prompt of request {r.id!r} has {count(r.prompt_tokens, 'token')}, the largest prefill level holds"
            f" {largest}"
            for r in instance.requests
            if r.prompt_tokens > largest
        ]
    return words


def one_at_a_time(instance: Instance) -> Schedule | None:
    """Each request alone, in the order of arrival; None when that takes longer than a schedule can say.

    Valid wherever every request fits the server alone and nothing else is asked. Between two requests the server may
    idle: where requests are alone, no round lasts longer than the last.
    """
    clock = instance.server.clock
    segments = []
    now = 0.0
    for request in sorted(instance.requests, key=lambda r: r.arrival):
        at, output = max(now, request.arrival), request.output_tokens
        lasts: float = output
        if isinstance(clock, LinearClock):
            peak = request.prompt_tokens + output
            lasts = (clock.prefill_ms(request.prompt_tokens) + clock.decode_ms(output, output, output * peak)) / 1000
        now = at + lasts
        if now > MAX_ROUNDS:
            return None
        segments.append(Segment(at, (Admission(request.id),), rounds=output))
    return Schedule(tuple(segments))
