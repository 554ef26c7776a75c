"""Why a bound and the best schedule differ in real time, as far as that is known.

Where requests can be served in any way one after another or together, the bounds leave out the same thing: they let a
request decode as fast as it can alone while another share of the server reads prompts, though no server does both at
once. At loads of about 70 to 100 % that is most of the gap, by instances small enough for brute force, as long as
memory is not what limits.
"""

from __future__ import annotations

from modelkit.instance import Instance
from modelkit.judge import Verdict
from modelkit.judge.load import load
from modelkit.problems.problem import TOTAL_LATENCY_MS, TOTAL_TTFT_MS

#: Gaps below this, relative to the value, need no explanation.
SMALL = 0.01
#: Loads from which requests slow each other all the time.
BUSY = 0.7
#: Share of the KV cache from which a schedule that reaches it is limited by memory.
FULL = 0.9


def open_words(
    instance: Instance, metric: str, value: float, least: float, verdict: Verdict, *, hurried: bool = False
) -> str:
    """What is known of the gap between a schedule's value and a bound on ``metric``; a sentence or nothing.

    Parameters
    ----------
    value, least
        Of the schedule, and the bound [ms].
    verdict
        The judge's on the schedule.
    hurried
        Whether prices on time were given too little time to prove what they can.
    """
    if value - max(0.0, least) <= SMALL * abs(value):
        return ""
    if metric == TOTAL_TTFT_MS:
        return "the bound leaves out that a prompt waits for the end of the iteration in which it arrives"
    if metric != TOTAL_LATENCY_MS or (share := load(instance)) is None:
        return ""
    needed = f"the load needs at least {share:.0%} of the server"
    if share > 1:
        return f"{needed}: requests pile up, and how much of the gap is the bound's is not known"
    if _memory_full(instance, verdict):
        return f"{needed}, and memory fills up: how much of the gap is the bound's is not known"
    if share >= BUSY and hurried:
        return f"{needed}, and prices on time had too little time: with a longer limit they prove more"
    if share >= BUSY:
        return f"{needed}: at loads of about 70 to 100 % most of the gap is usually the bound's"
    return f"{needed}: requests slow each other, and the bound counts only part of that"


def _memory_full(instance: Instance, verdict: Verdict) -> bool:
    capacity, peak = instance.server.kv_capacity_tokens, verdict.metrics["peak_kv_tokens"]
    return capacity is not None and peak is not None and peak >= FULL * capacity
