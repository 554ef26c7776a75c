"""Golden models: what each bundled formulation says of a two-request instance, as an LP file.

A changed formulation shows here as a readable difference. ``UPDATE_GOLDEN=1 pytest tests/test_golden_models.py``
writes the files anew; read the difference before it is committed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import modelkit as mk
from modelkit.authoring.check.tiny_instances import tiny_instances
from modelkit.formulation.formulation import Formulation
from modelkit.formulation.loading import found_formulations
from modelkit.instance import Instance, LinearClock, Pause, Prefix, PrefixCache, Server
from modelkit.solving.known import known_of
from modelkit.sources.families import generate

FOLDER = Path(__file__).parent / "golden"
NAMES = [found.name for found in found_formulations()]


def formulation_of(name: str) -> Formulation:
    """The bundled formulation."""
    formulation = next(found.formulation for found in found_formulations() if found.name == name)
    assert formulation is not None
    return formulation


def tiny(formulation: Formulation) -> Instance:
    """The two-request instance of the formulation's kind, with the first example of each parameter."""
    if formulation.parameters:
        return tiny_instances(formulation, 1, {})[0]
    two = mk.load(Path(__file__).parents[1] / "instances" / "two-requests.json")
    law = {"base_ms": 1.0, "prefill_base_ms": 4.0, "prefill_per_token_ms": 0.5, "decode_base_ms": 3.0}
    clock = LinearClock(kind="linear", mixed=True, decode_per_request_ms=0.1, decode_per_kv_token_ms=0.01, **law)
    late = tuple(r.model_copy(update={"arrival": 0.005 * i}) for i, r in enumerate(two.requests))
    alike = tuple(r.model_copy(update={"prefix": Prefix(group="g", tokens=1)}) for r in two.requests)
    kinds = (
        two,
        generate("slot-synthetic", seed=1, requests=2, slots=2),
        two.replace(server=Server(kv_capacity_tokens=6, clock=clock), requests=late),
        two.replace(server=Server(kv_capacity_tokens=6, prefix_cache=PrefixCache()), requests=alike),
        two.replace(server=Server(kv_capacity_tokens=6, replicas=2)),
        two.replace(server=Server(kv_capacity_tokens=6, pause=Pause(keep="held"))),
    )
    return next(instance for instance in kinds if formulation.refusal(instance) is None)


def test_none_is_missing() -> None:
    """Tests that every bundled formulation has its file, and every file its formulation."""
    if not os.environ.get("UPDATE_GOLDEN"):
        assert {path.stem for path in FOLDER.glob("*.lp")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_model_is_the_golden_one(name: str, tmp_path: Path) -> None:
    """Tests the model against the file."""
    formulation = formulation_of(name)
    instance = tiny(formulation)
    model = formulation.instantiate(instance, known_of(formulation, instance))
    written = tmp_path / "model.lp"
    model.write(str(written), format="lp", io_options={"symbolic_solver_labels": True})
    golden = FOLDER / f"{name}.lp"
    if os.environ.get("UPDATE_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        golden.write_text(written.read_text())
    assert written.read_text() == golden.read_text()
