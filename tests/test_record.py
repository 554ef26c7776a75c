"""Results recorded once: what solve, bound, simulate and export give stays the same while the code is rearranged.

Forty-odd cases with a fixed amount of work, without their seconds, logs and solver versions.
``UPDATE_GOLDEN=1 pytest tests/test_record.py`` writes the record anew, where an answer was meant to change.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import modelkit as mk
from modelkit.authoring.export import export_model
from modelkit.policies import policies

RECORD = Path(__file__).parent / "golden" / "record.json"
INSTANCES = Path(__file__).parents[1] / "instances"
#: Differ between runs, machines and versions of solvers, or say in words what the numbers say.
LEFT_OUT = ("seconds", "log", "progress", "stages", "message", "description", "model")
LONG = ("kv-makespan", "kv-hindsight-flow")  # on order-is-not-enough
SHIPPED = ("two-requests", "order-is-not-enough", "synthetic-10", "chat-40", "conversation-60")
KV = (
    "kv-hindsight",
    "kv-hindsight-classes",
    "kv-hindsight-cliques",
    "kv-hindsight-flow",
    "kv-hindsight-lp",
    "kv-hindsight-volume",
    "kv-makespan",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "kv-batch-cap": {"batch_cap": 1},
    "kv-deadlines": {"deadline": {"short": 9, "long": 9}},
    "kv-weighted-latency": {"weight": {"short": 1, "long": 9}},
}
SERVING = ("serving-latency", "serving-makespan", "serving-ttft")
SLOTS = ("slot-full-mip", "makespan-bin-packing", "slot-lower-bound")


def shipped(name: str) -> mk.Instance:
    return mk.load(INSTANCES / f"{name}.json")


#: Fields that are left out where they say nothing: they came when the record was there.
UNSAID = ("unit", "slo", "relaxation")


def recorded(document: Any) -> Any:
    """A result or certificate without what differs between runs."""
    if isinstance(document, dict):
        document = {key: value for key, value in document.items() if value is not None or key not in UNSAID}
        kept = {key: recorded(value) for key, value in document.items() if key not in LEFT_OUT}
        if "solver_version" in kept:
            kept["solver_version"] = None
        return kept
    if isinstance(document, list):
        return [recorded(item) for item in document]
    if isinstance(document, float):
        return float(f"{document:.9g}")  # sums of floats differ in their last digits between versions of Python
    return document


def solved(name: str, formulation: str | None, solver: str | None = None, **arguments: Any) -> Callable[[], Any]:
    return lambda: mk.solve(
        shipped(name), formulation, solver, threads=1, time_limit=None, **arguments
    ).model_dump(mode="json")  # fmt: skip


def slots(requests: int = 5, slots: int = 2) -> mk.Instance:
    return mk.generate("gsm8k", requests=requests, slots=slots, seed=2)


def simulated(instance: Callable[[], mk.Instance]) -> Callable[[], Any]:
    """Every policy that takes the instance."""

    def make() -> Any:
        found = {}
        for name in sorted(name for name, entry in policies().items() if not entry.pauses):
            try:
                found[name] = mk.simulate(instance(), name, seed=3).model_dump(mode="json")
            except mk.ModelkitError as error:
                found[name] = type(error).__name__
        return found

    return make


def written(formulation: str, instance: Callable[[], mk.Instance], **parameters: Any) -> Callable[[], Any]:
    def make() -> Any:
        return export_model(instance(), formulation, parameters=parameters)[0]

    return make


def bounded(instance: Callable[[], mk.Instance]) -> Callable[[], Any]:
    return lambda: mk.bound(instance(), time_limit=None, seed=3).result.model_dump(mode="json")


def cases() -> Iterator[tuple[str, Callable[[], Any]]]:
    for formulation in KV:
        for name in ("two-requests",) if formulation in LONG else ("two-requests", "order-is-not-enough"):
            yield f"solve {name} {formulation}", solved(name, formulation)
    for formulation, parameters in VARIANTS.items():
        yield f"solve two-requests {formulation}", solved("two-requests", formulation, parameters=parameters)
    for formulation in SLOTS:
        yield (
            f"solve slots {formulation}",
            lambda f=formulation: mk.solve(slots(), f, threads=1, time_limit=None).model_dump(mode="json"),
        )
    for name in ("synthetic-10", "chat-40", "real-time-4"):
        yield f"solve {name}", solved(name, None)
    yield "solve two-requests scip", solved("two-requests", "kv-hindsight-flow", "scip")
    for name in SHIPPED[2:]:
        yield f"bound {name}", bounded(lambda n=name: shipped(n))
    yield "bound slots", bounded(lambda: slots(30, 6))
    for name in SHIPPED:
        yield f"simulate {name}", simulated(lambda n=name: shipped(n))
    yield "simulate slots", simulated(lambda: slots(30, 6))
    yield "simulate real time", simulated(real_time)
    for formulation in KV:
        yield f"export synthetic-10 {formulation}", written(formulation, lambda: shipped("synthetic-10"))
    for formulation in SLOTS:
        yield f"export slots {formulation}", written(formulation, slots)
    for formulation in SERVING:
        yield f"export real-time-4 {formulation}", written(formulation, lambda: shipped("real-time-4"))


def real_time() -> mk.Instance:
    """Requests in milliseconds on a server whose prefills and decodes share iterations."""
    instance = mk.generate("chat", requests=60, kv_capacity=2000, seed=2)
    clock = mk.LinearClock(
        kind="linear", prefill_base_ms=8, prefill_per_token_ms=0.1, decode_base_ms=20, decode_per_request_ms=0.5,
        mixed=True,
    )  # fmt: skip
    requests = tuple(r.model_copy(update={"arrival": 40 * r.arrival}) for r in instance.requests)
    server = mk.Server(clock=clock, kv_capacity_tokens=2000)
    return instance.replace(server=server, requests=requests)


def marks(name: str) -> tuple[Any, ...]:
    """What takes more than a few seconds is slow."""
    long = (
        name.startswith(("solve order", "solve chat", "solve real", "bound", "simulate conversation"))
        and "lp" not in name
    )
    return (pytest.mark.slow,) if long else ()


@pytest.mark.parametrize(("name", "make"), [pytest.param(n, m, id=n, marks=marks(n)) for n, m in cases()])
def test_record(name: str, make: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = json.dumps(recorded(make()), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if os.environ.get("UPDATE_GOLDEN"):
        record[name] = digest
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    assert record[name] == digest, text[:20000]
