"""Service levels: what people write for them, which requests keep them, and what is counted of those.

A request is within its limits when its time to first token, its time per output token and its latency are at most what
the limits say, to the microsecond that the judge also grants to arrivals: sums of doubles are not exact. Where a class
has limits, these stand in place of those for all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modelkit.errors import UsageError, did_you_mean, shown
from modelkit.instance import Instance
from modelkit.judge.rules import Residency
from modelkit.requests import Request, ServiceLevels, ServiceLimits

#: Times closer than this to a limit keep it, as times closer than this are the same moment to the judge [ms].
TOLERANCE_MS = 1e-3

#: Metrics where there are limits, and what they mean; for each class they end in its name, as ``within_slo[chat]``.
SLO_METRICS = {
    "requests_within_slo": "requests that keep all their service levels",
    "requests_outside_slo": "requests that miss one of their service levels",
    "within_slo": "share of the requests that keep all their service levels",
    "goodput_requests_per_second": "requests that keep all their service levels / makespan",
    "goodput_tokens_per_second": "output tokens of the requests that keep all their service levels / makespan",
}

#: Limits of MLPerf's server scenarios [ms]: time to first token, time per output token. They are kept by 99 %.
MLPERF: dict[str, tuple[int, int]] = {
    "llama2-70b": (2000, 200),
    "llama2-70b-interactive": (450, 40),
    "llama3.1-405b": (6000, 175),
    "llama3.1-405b-interactive": (4500, 80),
    "llama3.1-8b": (2000, 100),
    "llama3.1-8b-interactive": (500, 30),
    "deepseek-r1": (2000, 80),
    "deepseek-r1-interactive": (1500, 15),
    "gpt-oss-120b": (3000, 80),
    "gpt-oss-120b-interactive": (2000, 15),
    "mixtral-8x7b": (2000, 200),
}
PRESET = "mlperf:"
#: What a limit is called on the command line, and its field.
LIMITS = {"ttft": "ttft_ms", "tpot": "tpot_ms", "latency": "latency_ms"}
_ALLOWED = "such as ttft=450ms,tpot=40ms,latency=20s, mlperf:NAME, or CLASS: before either"
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s)")
_IN_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


#: How service levels may be stated.
Slo = str | Sequence[str] | Mapping[str, Any] | ServiceLevels | None


def service_levels(said: Slo, instance: Instance | None = None) -> ServiceLevels | None:
    """Service levels from how people state them.

    Parameters
    ----------
    said
        ``"ttft=450ms,tpot=40ms"``, ``"mlperf:llama2-70b-interactive"``, either after ``"CLASS:"`` for the requests of a
        class, or several of these; ``{"ttft_ms": 450, "class": {"chat": {...}}}`` as in ``server.slo`` of an instance.
        None, or nothing: none.
    instance
        What they are for: one in real time.

    Raises
    ------
    UsageError
        It is none of these, states no limit, or the instance has no times in ms.
    """
    if said is None or (isinstance(said, list | tuple) and not said):
        return None
    if instance is not None and instance.is_unit:
        raise UsageError("service levels are in ms, for the linear clock; this instance has the unit clock")
    if isinstance(said, ServiceLevels):
        levels = said
    elif isinstance(said, Mapping):
        levels = ServiceLevels(**said)
    else:
        texts = [said] if isinstance(said, str) else said
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise UsageError(f"service levels: found {shown(said)}; allowed: text {_ALLOWED}, or a dictionary")
        levels = ServiceLevels(**_of_texts(texts))
    if not levels:
        raise UsageError(f"service levels without a limit: {shown(said)}; allowed: {_ALLOWED}")
    return levels


def _of_texts(texts: Iterable[str]) -> dict[str, Any]:
    general: dict[str, float] = {}
    classes: dict[str, dict[str, float]] = {}
    for text in texts:
        head, colon, rest = text.partition(":")
        if colon and f"{head}:" != PRESET and "=" not in head:
            limits, text = classes.setdefault(head.strip(), {}), rest
        else:
            limits = general
        for part in text.split(","):
            for name, ms in _limits_of(part.strip()).items():
                if limits.setdefault(name, ms) != ms:
                    raise UsageError(f"service levels: {name} is given twice, as {limits[name]:g} and {ms:g} ms")
    return {**general, "class": classes}


def _limits_of(part: str) -> dict[str, float]:
    """One part between commas: a preset, or a limit."""
    if part.startswith(PRESET):
        name = part.removeprefix(PRESET)
        if name not in MLPERF:
            words = did_you_mean(name, MLPERF) or f"; allowed: {', '.join(MLPERF)}"
            raise UsageError(f"no preset {part!r} of service levels{words}")
        return dict(zip(("ttft_ms", "tpot_ms"), map(float, MLPERF[name]), strict=True))
    name, _, value = part.partition("=")
    if name.strip() not in LIMITS:
        words = did_you_mean(name.strip(), LIMITS) or f"; allowed: {_ALLOWED}"
        raise UsageError(f"no service level {shown(part)}{words}")
    found = _DURATION.fullmatch(value.strip())
    if found is None or not float(found[1]):
        raise UsageError(
            f"service level {name.strip()}: found {shown(value)}; allowed: a time with its unit, as 450ms or 1.5s"
        )
    return {LIMITS[name.strip()]: float(found[1]) * _IN_MS[found[2]]}


def slo_words(slo: ServiceLevels) -> str:
    """Service levels in words: ``TTFT 450 ms, TPOT 40 ms``."""
    parts = [_limit_words(slo)] if ServiceLimits.__bool__(slo) else []
    parts += [f"{name}: {_limit_words(limits) or 'none'}" for name, limits in slo.classes.items()]
    return "; ".join(parts)


def _limit_words(limits: ServiceLimits) -> str:
    named = {"TTFT": limits.ttft_ms, "TPOT": limits.tpot_ms, "latency": limits.latency_ms}
    return ", ".join(f"{name} {ms:,g} ms" for name, ms in named.items() if ms is not None)


def keeps(limits: ServiceLimits, ttft_ms: float, latency_ms: float, output: int) -> bool:
    """Whether a request with these times keeps its limits; one of a single token has no time per output token."""
    if limits.ttft_ms is not None and ttft_ms > limits.ttft_ms + TOLERANCE_MS:
        return False
    if limits.latency_ms is not None and latency_ms > limits.latency_ms + TOLERANCE_MS:
        return False
    return limits.tpot_ms is None or latency_ms - ttft_ms <= limits.tpot_ms * (output - 1) + TOLERANCE_MS


def slo_metrics(
    instance: Instance, residencies: Sequence[Residency], slo: ServiceLevels | None = None
) -> dict[str, float | None]:
    """Every metric of ``SLO_METRICS``, of all requests and by class; nothing where there are no service levels.

    They are None where some request does not complete. ``slo`` are levels in place of the instance's own.
    """
    slo = slo or instance.server.slo
    if slo is None or instance.is_unit:
        return {}
    everyone = Counter(group for request in instance.requests for group in _groups(request))
    completed, kept, tokens = 0, Counter[str | None](), Counter[str | None]()
    makespan_ms = 0.0
    for residency in residencies:
        if not residency.completed or residency.end is None or residency.first_token is None:
            continue
        request = instance.requests[residency.request]
        arrival_ms = float(request.arrival) * 1000.0
        completed += 1
        makespan_ms = max(makespan_ms, residency.end)
        ttft_ms, latency_ms = residency.first_token - arrival_ms, residency.end - arrival_ms
        if keeps(slo.limits_of(request), ttft_ms, latency_ms, request.output_tokens):
            kept.update(_groups(request))
            tokens.update(dict.fromkeys(_groups(request), request.output_tokens))
    known, per_second = completed == len(instance.requests), 1000.0 / makespan_ms if makespan_ms else None
    found: dict[str, float | None] = {}
    for group in sorted(everyone, key=lambda name: (name is not None, name or "")):
        values = (
            kept[group],
            everyone[group] - kept[group],
            kept[group] / everyone[group],
            per_second and kept[group] * per_second,
            per_second and tokens[group] * per_second,
        )
        for name, value in zip(SLO_METRICS, values, strict=True):
            found[name if group is None else f"{name}[{group}]"] = value if known else None
    return found


def _groups(request: Request) -> set[str | None]:
    """What a request counts in: all, None, and its class."""
    return {None, request.request_class}
