"""Logs of iterations, as engines write them, in the columns of a table of iteration times.

Three are known by their keys or words: forward-pass metrics (Dynamo, SGLang; ``wall_time`` and ``scheduled_requests``),
vLLM's iteration log (``--enable-logging-iteration-details``) and the iteration statistics of TensorRT-LLM
(``iterLatencyMS``, or the lines of ``print_iter_log``). An iteration has its prompts' tokens, its decoding requests and
their KV tokens; what a log counts in another way, or not at all, is said.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from modelkit.errors import MOST_FAULTS, Fault, InputError, shown
from modelkit.io.files import MOST_TRACE_BYTES, MOST_TRACE_LINES, read_head, read_lines, where_of
from modelkit.io.tables import Row, json_rows
from modelkit.text import counted

#: Columns of a table of iteration times.
COLUMNS = ("phase", "batch_size", "prompt_tokens", "kv_tokens", "iteration_ms")
_HEAD = 2**16
_DEEPEST = 12


@dataclass
class IterationLog:
    """Iterations as rows of a table, the columns that choose among them, and what is to be said of the log."""

    where: str
    columns: tuple[str, ...]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Iteration(NamedTuple):
    """One iteration; ``kv`` is None where the log does not say what the decoding requests hold."""

    row: Row
    prompts: float
    prompt_tokens: float
    decoding: float
    kv: float | None
    ms: float


@dataclass
class _Found:
    """What is found while a log is read."""

    faults: list[Fault] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    said: dict[str, None] = field(default_factory=dict)
    capacity: float | None = None


Reader = Callable[[str | os.PathLike[str], _Found], Iterator[_Iteration]]


def read_iterations(path: str | os.PathLike[str], kv_capacity: int | None = None) -> IterationLog | None:
    """Iterations of a log; None for a file that is none of them, such as a table.

    Parameters
    ----------
    kv_capacity
        KV capacity [token] of the engine, where a log has only shares of it.

    Raises
    ------
    InputError
        With the faults of the file and their places.
    UsageError
        The file cannot be opened.
    """
    kind = _kind(path)
    if kind is None:
        return None
    found = _Found(capacity=kv_capacity)
    iterations: list[_Iteration] = []
    for iteration in kind.read(path, found):
        if len(found.faults) >= MOST_FAULTS:
            break
        if iteration.ms > 0 and (iteration.prompt_tokens or iteration.decoding):
            iterations.append(iteration)
        else:
            found.counted["iterations without work or without time, left out"] += 1
    where = where_of(path)
    if found.faults:
        raise InputError(where, found.faults)
    iterations = _with_kv(iterations, found)
    if not iterations:
        words = ", ".join(counted(n, why) for why, n in found.counted.items())
        raise InputError(where, [Fault("file", f"has no iteration to fit{f': {words}' if words else ''}")])
    log = IterationLog(where, (*COLUMNS, *kind.choices))
    log.rows = [_row(iteration, kind.choices) for iteration in iterations]
    log.notes = [*found.said, *(counted(n, words) for words, n in found.counted.items())]
    return log


def _with_kv(iterations: list[_Iteration], found: _Found) -> list[_Iteration]:
    """Those whose KV tokens are known; where none are, all with none."""
    unknown = [i for i in iterations if i.decoding and i.kv is None]
    if not unknown:
        return iterations
    if len(unknown) == sum(i.decoding > 0 for i in iterations):
        found.said[
            "the log does not say how many KV tokens are held: decode_per_kv_token_ms cannot be told from"
            " decode_per_request_ms and decode_base_ms, and is 0"
        ] = None
        return [i._replace(kv=0.0) for i in iterations]
    found.counted["iterations whose KV tokens are not said, left out"] += len(unknown)
    return [i for i in iterations if not i.decoding or i.kv is not None]


def _row(iteration: _Iteration, choices: tuple[str, ...]) -> Row:
    """An iteration in the columns of a table; of prompts alone their tokens together."""
    i = iteration
    phase = "decode" if not i.prompt_tokens else "mixed" if i.decoding else "prefill"
    cells = {
        "phase": phase,
        "batch_size": i.decoding or 1.0,
        "prompt_tokens": i.prompt_tokens,
        "kv_tokens": i.kv or 0.0,
        "iteration_ms": i.ms,
        **{name: str(i.row.cells.get(name, "")) for name in choices},
    }
    return Row(i.row.line, cells, i.row.in_list)


class _Kind(NamedTuple):
    """A kind of log: how it is read, and the fields that ``--where`` chooses by."""

    read: Reader
    choices: tuple[str, ...] = ()


def _kind(path: str | os.PathLike[str]) -> _Kind | None:
    """What a file is, by its beginning; a log of a server may begin with other lines."""
    if not os.path.isfile(path):  # pipes are read once
        return None
    head = read_head(path, _HEAD)
    if head.lstrip()[:1] == "{" or re.match(r"\s*\[\s*[{\]]", head):
        if '"iterLatencyMS"' in head:
            return _Kind(_tensorrt_json)
        if '"scheduled_requests"' in head or '"wall_time"' in head:
            return _Kind(_forward_passes, ("worker_id", "dp_rank"))
        return None
    if "iteration_ms" in head or "token_time" in head:
        return None
    for text in read_lines(path, most=MOST_TRACE_LINES, most_bytes=MOST_TRACE_BYTES):
        if "Iteration(" in text and _VLLM_SAYS in text:
            return _Kind(_vllm_lines, ("engine",))
        if _TENSORRT.search(text):
            return _Kind(_tensorrt_lines)
    return None


def _objects(path: str | os.PathLike[str], key: str) -> Iterator[tuple[Row, str]]:
    """Objects of a JSON file that have this key, however deep, each with its place."""

    def walk(value: object, place: str, depth: int) -> Iterator[tuple[Mapping[str, Any], str]]:
        if isinstance(value, Mapping) and key in value:
            yield value, place
        elif depth < _DEEPEST and isinstance(value, Mapping):
            for name, inner in value.items():
                yield from walk(inner, f"{place}, {name}", depth + 1)
        elif depth < _DEEPEST and isinstance(value, list):
            for i, inner in enumerate(value):
                yield from walk(inner, f"{place}[{i}]", depth + 1)

    for row in json_rows(path):
        for cells, place in walk(row.cells, row.place, 0):
            yield Row(row.line, cells, row.in_list), place


class _Numbers:
    """Numbers of an object, 0 or more, with a fault where one is wrong."""

    def __init__(self, cells: object, place: str, found: _Found) -> None:
        self._cells = cells if isinstance(cells, Mapping) else {}
        self._place = place
        self._found = found
        if not isinstance(cells, Mapping):
            found.faults.append(Fault(place, f"found {shown(cells)}; allowed: a JSON object"))

    def of(self, key: str) -> float:
        """A number; 0 when there is none."""
        return self.known(key) or 0.0

    def known(self, key: str, *, needed: bool = False) -> float | None:
        """A number; None when there is none."""
        value = self._cells.get(key)
        if value is None and not needed:
            return None
        good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e12
        if not good:
            words = "is missing" if value is None else f"found {shown(value)}"
            self._found.faults.append(Fault(f"{self._place}, {key}", f"{words}; allowed: a number from 0 to 10^12"))
            return None
        return float(value)  # type: ignore[arg-type]


def _forward_passes(path: str | os.PathLike[str], found: _Found) -> Iterator[_Iteration]:
    """Version 1 of the forward-pass metrics: seconds, and sums over the scheduled requests."""
    for row, place in _objects(path, "scheduled_requests"):
        version = row.cells.get("version", 1)
        if version != 1:
            found.faults.append(Fault(f"{place}, version", f"found {shown(version)}; allowed: 1"))
            continue
        scheduled = _Numbers(row.cells["scheduled_requests"], f"{place}, scheduled_requests", found)
        prompts = scheduled.of("num_prefill_requests")
        tokens = scheduled.known("sum_prefill_tokens", needed=prompts > 0) or 0.0
        decoding, kv = scheduled.of("num_decode_requests"), scheduled.known("sum_decode_kv_tokens")
        if (tokens and not prompts) or (kv and not decoding):
            words = "has tokens of no request; allowed: sums only beside their numbers of requests"
            found.faults.append(Fault(f"{place}, scheduled_requests", words))
        if scheduled.of("sum_prefill_kv_tokens"):
            found.counted[
                "iterations whose prompts read the prefix cache or their own earlier parts, whose time is in"
                " prefill_per_token_ms"
            ] += 1
        seconds = _Numbers(row.cells, place, found).known("wall_time", needed=True)
        yield _Iteration(row, prompts, tokens, decoding, kv if decoding else 0.0, (seconds or 0.0) * 1000)


_VLLM = re.compile(
    r"Iteration\(\d+\): (\d{1,12}) context requests, (\d{1,12}) context tokens, (\d{1,12}) generation requests,"
    r" (\d{1,12}) generation tokens, iteration elapsed time: (\d{1,12}(?:\.\d{1,12})?) ms"
    r"( \(dummy\))?(?:,? GPU KV cache usage: (\d{1,3}(?:\.\d{1,12})?)%)?"
)
_VLLM_SAYS = " context requests, "
_VLLM_ENGINE = re.compile(r"Engine (\d{1,6}):|EngineCore_DP(\d{1,6})")
_VLLM_CAPACITY = re.compile(r"GPU KV cache size: ([\d,]{1,16}) tokens")


def _vllm_lines(path: str | os.PathLike[str], found: _Found) -> Iterator[_Iteration]:
    """Lines of a server's log; the share of the KV cache in use is one of its capacity, where that is known."""
    for line, text in _lines(path):
        if (size := _VLLM_CAPACITY.search(text)) and found.capacity is None:
            found.capacity = float(size[1].replace(",", "") or 0) or None
        if "Iteration(" not in text:
            continue
        match = _VLLM.search(text)
        if match is None:
            words = "names an iteration in other words; allowed: Iteration(N): ... iteration elapsed time: X ms"
            found.faults.append(Fault(f"line {line}", f"found {shown(text.strip())}: {words}"))
            continue
        prompts, tokens, decoding, made, ms = (float(match[k]) for k in range(1, 6))
        if match[6]:
            found.counted["dummy iterations, left out"] += 1
            continue
        if made != decoding:
            found.counted[_SPECULATIVE] += 1
        share = None if match[7] is None else float(match[7]) / 100
        if share is not None and share > 1:
            found.faults.append(Fault(f"line {line}", f"found a KV cache usage of {match[7]}%; allowed: up to 100%"))
        kv = None if share is None or found.capacity is None else share * found.capacity
        if kv is not None:
            found.said[
                f"KV tokens are the share of a cache of {found.capacity:,.0f} tokens that is in use, as exact as it is"
                " logged, the prompts' own among them"
            ] = None
        elif share is not None:
            found.said["the share of the KV cache is known, its size is not: give it, --kv-capacity"] = None
        engine = _VLLM_ENGINE.search(text)
        name = "" if engine is None else str(int(engine[1] or engine[2]))
        yield _Iteration(Row(line, {"engine": name}), prompts, tokens, decoding, kv, ms)


_SPECULATIVE = "iterations that made more or fewer tokens than requests decoded (speculative decoding)"


def _tensorrt_json(path: str | os.PathLike[str], found: _Found) -> Iterator[_Iteration]:
    """Statistics as JSON: KV tokens of those that decode, or else all blocks in use."""
    for row, place in _objects(path, "iterLatencyMS"):
        batch = row.cells.get("inflightBatchingStats")
        if batch is None:
            found.counted["iterations without inflightBatchingStats, left out"] += 1
            continue
        of = _Numbers(batch, f"{place}, inflightBatchingStats", found)
        kv = of.known("numGenKvTokens")
        cache = row.cells.get("kvCacheStats")
        if kv is None and cache is not None:
            blocks = _Numbers(cache, f"{place}, kvCacheStats", found)
            used, size = blocks.known("usedNumBlocks"), blocks.known("tokensPerBlock")
            if used is not None and size is not None:
                kv = used * size
                found.said["KV tokens are those of all blocks in use, the prompts' own among them"] = None
        if of.of("numCtxKvTokens"):
            found.counted["iterations whose prompts read KV tokens, whose time is in prefill_per_token_ms"] += 1
        ms = _Numbers(row.cells, place, found).known("iterLatencyMS", needed=True) or 0.0
        prompts, decoding = (of.known(key, needed=True) or 0.0 for key in ("numContextRequests", "numGenRequests"))
        yield _Iteration(
            row, prompts, of.known("numCtxTokens", needed=prompts > 0) or 0.0, decoding, kv, ms
        )  # fmt: skip


_TENSORRT = re.compile(
    r"\biter = \d+, .*?(?:elapsed_time = (\d{1,12}(?:\.\d{1,20})?)s|host_step_time = (\d{1,12}(?:\.\d{1,20})?)ms).*?"
    r"num_scheduled_requests: (\d{1,12}), states = \{(.*)\}"
)
_STATE = re.compile(r"'(num_ctx_requests|num_ctx_tokens|num_generation_tokens)': (\d{1,12})")


def _tensorrt_lines(path: str | os.PathLike[str], found: _Found) -> Iterator[_Iteration]:
    """Lines of ``print_iter_log``: no KV tokens; the time is the host's."""
    for line, text in _lines(path):
        if "num_scheduled_requests:" not in text:
            continue
        match = _TENSORRT.search(text)
        states = dict(_STATE.findall(match[4])) if match is not None else {}
        if match is None or len(states) < 3:
            words = "names an iteration in other words; allowed: iter = N, ... host_step_time = Xms, ... states = {...}"
            found.faults.append(Fault(f"line {line}", f"found {shown(text.strip())}: {words}"))
            continue
        ms = float(match[1]) * 1000 if match[1] is not None else float(match[2])
        prompts, tokens = float(states["num_ctx_requests"]), float(states["num_ctx_tokens"])
        decoding = max(0.0, float(match[3]) - prompts)
        if decoding != float(states["num_generation_tokens"]):
            found.counted[_SPECULATIVE] += 1
        yield _Iteration(Row(line, {}), prompts, tokens, decoding, None, ms)


def _lines(path: str | os.PathLike[str]) -> Iterable[tuple[int, str]]:
    return enumerate(read_lines(path, most=MOST_TRACE_LINES, most_bytes=MOST_TRACE_BYTES), start=1)
