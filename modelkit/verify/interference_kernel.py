"""The least terms of requests that wait for each other, compiled; the same code runs in Python's unbounded integers.

It serves ``modelkit.verify.serving_interference``, which defines the terms, and shares nothing with what finds bounds.
"""

from __future__ import annotations

from typing import Any

from modelkit.runtime.kernel import kernel


@kernel
def least_terms(
    arrival: Any,
    own: Any,
    prefill: Any,
    decoding: Any,
    end: Any,
    shares: Any,
    charged: Any,
    density: Any,
    cap: Any,
    times: Any,
    present: Any,
    most: int,
) -> int:
    """Sum over requests of the least of their terms [tick / 2^10]; -1 where more than ``most`` times are to be seen.

    Four pointers move through the stretches between ``times``, to those of x, x + own, x + prefill and x + prefill +
    decoding; the two integrals change with x by what lies at their ends.
    """
    total, looked, begin, last = 0, 0, 0, len(times) - 1
    for i in range(len(arrival)):
        a, gone = arrival[i], end[i]
        while begin < last and times[begin + 1] <= a:
            begin += 1
        theta, limit = shares[i], cap[i]
        weight = 1024 - theta
        if theta == 0:  # without delay nothing is charged that waiting does not avoid
            total += 1024 * charged[i]
            continue
        x, best, v = a, -1, 1024 * charged[i]
        at_x, at_read = begin, begin
        least_x = least_read = present[begin] - weight * (times[begin] < gone)
        # the integral of the least over [a, a + own]
        prompt, to = 0, a
        while at_read < last and times[at_read + 1] <= a + own[i]:
            prompt += least_read * (times[at_read + 1] - to)
            at_read += 1
            to = times[at_read]
            least_read = min(least_read, present[at_read] - weight * (to < gone))
        prompt += least_read * (a + own[i] - to)
        at_first = begin
        while at_first < last and times[at_first + 1] <= a + prefill[i]:
            at_first += 1
        # the integral of the others, up to the cap, over [a + prefill, a + prefill + decoding]
        at_last, others, to = at_first, 0, a + prefill[i]
        until = to + decoding[i]
        first_others = min(limit, present[at_first] - weight * (times[at_first] < gone))
        last_others = first_others
        while at_last < last and times[at_last + 1] <= until:
            others += last_others * (times[at_last + 1] - to)
            at_last += 1
            to = times[at_last]
            last_others = min(limit, present[at_last] - weight * (to < gone))
        others += last_others * (until - to)
        while True:
            looked += 1
            high, low = others >> 30, others & (2**30 - 1)
            decode = high * density[i] + ((low * density[i]) >> 30)
            delay = theta * (x - a)
            if delay < v + theta:
                delay = v  # where the two meet just before x, what is least may lie between two ticks
            value = delay + prompt + decode
            if best < 0 or value < best:
                best = value
            if theta * (x - a) >= best or looked > most:
                break
            # to the next time at which one of the four stretches ends
            step = -1
            if at_x < last:
                step = times[at_x + 1] - x
            if at_read < last and (step < 0 or times[at_read + 1] - own[i] - x < step):
                step = times[at_read + 1] - own[i] - x
            if at_first < last and (step < 0 or times[at_first + 1] - prefill[i] - x < step):
                step = times[at_first + 1] - prefill[i] - x
            if at_last < last and (step < 0 or times[at_last + 1] - prefill[i] - decoding[i] - x < step):
                step = times[at_last + 1] - prefill[i] - decoding[i] - x
            if step < 0:
                break  # nobody is present any more
            kink = a + v // theta - x  # where the delay begins to cost more than v, or just before
            if 0 < kink < step:
                step = kink
            elif kink == 0 and step > 1 and v % theta:
                step = 1
            prompt += step * (least_read - least_x)
            others += step * (last_others - first_others)
            x += step
            if at_x < last and times[at_x + 1] <= x:
                at_x += 1
                least_x = min(least_x, present[at_x] - weight * (times[at_x] < gone))
            if at_read < last and times[at_read + 1] <= x + own[i]:
                at_read += 1
                least_read = min(least_read, present[at_read] - weight * (times[at_read] < gone))
            if at_first < last and times[at_first + 1] <= x + prefill[i]:
                at_first += 1
                first_others = min(limit, present[at_first] - weight * (times[at_first] < gone))
            if at_last < last and times[at_last + 1] <= x + prefill[i] + decoding[i]:
                at_last += 1
                last_others = min(limit, present[at_last] - weight * (times[at_last] < gone))
        if looked > most:
            return -1
        total += best
    return total
