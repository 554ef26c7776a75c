"""Numbers and names as people read them: separators, sensible digits, units, names of files."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

#: Longest name of a file that modelkit names by itself [byte]; systems take 255.
LONGEST_NAME = 200
#: Between a number and its unit: narrow and unbreakable.
THIN = "\u202f"

#: What each objective is called in a sentence.
_IN_CAPITALS = re.compile(r"\b(kv|ttft|tpot|p\d\d)\b")
_NOUNS = {
    "total_latency": "total latency", "makespan": "makespan", "mean_latency": "mean latency",
    "total_ttft": "total time to first token", "mean_ttft": "mean time to first token",
    "mean_tpot": "mean time per output token", "requests_within_slo": "requests within service levels",
    "requests_outside_slo": "number of requests outside service levels", "within_slo": "share within service levels",
    "goodput_requests_per_second": "goodput",
    "goodput_tokens_per_second": "goodput in tokens",
}  # fmt: skip


def number(value: float, digits: int = 4) -> str:
    """With separators: whole numbers in full, others with about ``digits`` significant digits."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, min(6, digits - 1 - math.floor(math.log10(abs(value)))))
    return f"{value:,.{decimals}f}"


def milliseconds(value: float, digits: int = 4) -> str:
    """A duration given in ms, in the unit that suits it."""
    for size, unit in ((36e6, "h"), (1000.0, "s")):
        if abs(value) >= size:
            return f"{number(value / (3.6e6 if unit == 'h' else 1000.0), digits)}{THIN}{unit}"
    return f"{number(value, digits)}{THIN}ms"


def seconds(value: float) -> str:
    """A measured time, given in seconds."""
    return f"{value:.2f}{THIN}s" if value < 100 else f"{value:,.0f}{THIN}s"


def percent(share: float, rounding: str = "near") -> str:
    """A share in percent, with a digit more where it is small.

    Parameters
    ----------
    rounding
        ``up`` for what is "at most", ``down`` for what is "at least", ``near`` otherwise.
    """
    value = share * 100
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 1 else 2 if abs(value) >= 0.1 else 3
    scaled = value * 10**decimals
    if rounding == "up":
        scaled = math.ceil(scaled - 1e-9)
    elif rounding == "down":
        scaled = math.floor(scaled + 1e-9)
    else:
        scaled = round(scaled)
    if not scaled:
        return f"0{THIN}%"
    return f"{scaled / 10**decimals:,.{decimals}f}{THIN}%"


def unit_of(metric: str) -> str:
    """The unit that a metric's name ends in: ``rounds``, ``ms``, ``tokens``, ``share`` or nothing."""
    metric = metric.partition("[")[0]  # what is counted by class ends in the class
    if metric.endswith(("utilisation", "hit_share")) or metric == "within_slo":
        return "share"
    last = metric.rpartition("_")[2]
    return last if last in ("rounds", "ms", "tokens", "second", "round") else ""


def quantity(metric: str, value: float | None) -> str:
    """The value of a metric with its unit; a dash where it is not known."""
    if value is None:
        return "–"
    unit = unit_of(metric)
    if unit == "ms":
        return milliseconds(value)
    if unit == "share":
        return percent(value)
    shown = number(value)
    if unit in ("second", "round"):
        what = "requests" if "_requests_per_" in metric else "tokens"
        return f"{shown}{THIN}{what}/{'s' if unit == 'second' else 'round'}"
    if unit == "rounds" and metric not in ("rounds", "idle_rounds"):
        return f"{shown}{THIN}{'round' if value == 1 else 'rounds'}"
    return f"{shown}{THIN}tokens" if unit == "tokens" else shown


def measured(value: float | None, unit: str) -> str:
    """A value with a unit of an author's own: ``4.82 $``, ``16 rounds``; a dash where it is not known."""
    if value is None:
        return "–"
    if unit == "ms":
        return milliseconds(value)
    shown = number(value)
    return shown if unit in ("", "1") else f"{shown}{THIN}{plural(unit) if value != 1 else unit}"


def plural(unit: str) -> str:
    """``rounds`` of ``round``; units that are no such noun stay as they are."""
    return f"{unit}s" if unit in ("round", "token", "request", "iteration") else unit


def brief(value: Any) -> str:
    """A parameter in few characters; long ones are told apart by a digest."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True) if not isinstance(value, str) else value
    if len(text) <= 48:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:6]
    return f"{len(value)} values, digest {digest}" if isinstance(value, Mapping) else f"{text[:40]}…, digest {digest}"


def bare(metric: str, value: float | None) -> str:
    """The same without ``rounds`` and ``tokens/round``, for columns whose heading names the unit."""
    shown = quantity(metric, value)
    return shown.partition(THIN)[0] if unit_of(metric) in ("rounds", "round") else shown


def unit_words(metric: str) -> str:
    """For a heading: `` [rounds]``, or nothing where cells name their unit."""
    return {"rounds": " [rounds]", "round": " [tokens/round]"}.get(unit_of(metric), "")


def metric_noun(metric: str) -> str:
    """What a metric is called in a sentence, without its unit; of a class, ``within_slo[chat]``, with its name."""
    metric, _, group = metric.removesuffix("]").partition("[")
    if group:
        return f"{metric_noun(metric)} of {group}"
    stem = metric.rpartition("_")[0] if unit_of(metric) in ("rounds", "ms", "tokens") else metric
    return _NOUNS.get(stem) or _IN_CAPITALS.sub(lambda found: found[0].upper(), stem.replace("_", " "))


def count(n: int, noun: str) -> str:
    """``1 request``, ``2 requests``."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


_NOUN = re.compile(r"^((?:[a-z]+ )??)(request|row|turn|token|event|span|iteration|eviction|point|run)s\b")
_ONE = ((" that are ", " that is "), (" that were ", " that was "), (" that do ", " that does "), (" their ", " its "))


def counted(n: int, words: str) -> str:
    """``2 requests that are late`` of words in the plural, and of one in the singular: ``1 request that is late``."""
    if n == 1:
        words = _NOUN.sub(r"\1\2", words)
        for many, one in _ONE:
            words = words.replace(many, one)
    return f"{n:,} {words}"


def join_words(words: list[str], most: int = 5) -> str:
    """``a, b and c``; beyond ``most`` the rest is counted."""
    if len(words) > most:
        words = [*words[: most - 1], f"{len(words) - most + 1} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def file_name(*parts: str | None, ending: str) -> str:
    """``a.b.ending`` from parts as they are; when that gets too long, the end of the parts is a hash of them."""
    name = ".".join(part for part in parts if part)
    most = LONGEST_NAME - len(ending) - 1
    if len(os.fsencode(name)) > most:
        mark = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
        name = os.fsencode(name)[: most - 9].decode(errors="ignore") + "-" + mark
    return f"{name}.{ending}"


def values_in_a_name(values: Mapping[str, Any]) -> str:
    """Values as a part of a file's name, that names of other values are unlike: ``batch_cap=2``; maps by a digest."""
    parts = []
    for name, value in values.items():
        text = json.dumps(value, sort_keys=True, default=str)
        short = isinstance(value, int | float) and len(text) <= 20
        parts.append(f"{name}={text if short else hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:6]}")
    return ".".join(parts)


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path as messages have it: a long one is cut."""
    text = os.fspath(path)
    return text if len(text) <= 200 else f"{text[:80]}...{text[-40:]}"


def html_facts(title: str, facts: Iterable[tuple[str, str]]) -> str:
    """A small table for notebooks: names and values, in the colours of the notebook, whatever they are."""
    cell = '<td style="text-align: left">'
    rows = "".join(f"<tr>{cell}{escape(name)}</td>{cell}{escape(value)}</td></tr>" for name, value in facts)
    return f"<div><strong>{escape(title)}</strong><table>{rows}</table></div>"
