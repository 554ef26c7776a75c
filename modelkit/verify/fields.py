"""Every field of a result, and what ``verify`` does with it.

============  =======================================================================================
recomputed    from the schedule, the instance or the proof alone; what differs is wrong
compared      with the instance or the formulation; what differs is wrong
consistent    with the other fields only: what contradicts them is wrong, what does not may still be false
unchecked     cannot be checked from the file; named as such where the file states it
============  =======================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel

from modelkit.certificate import Goodput, ServingPrices
from modelkit.requests import ServiceLimits
from modelkit.result import Result


class Check(NamedTuple):
    """What becomes of a field: how it is checked, and against what."""

    how: Literal["recomputed", "compared", "consistent", "unchecked"]
    words: str


_STAMP = {
    "name": "the instance's name",
    "sha256": "the instance's hash; if it differs, nothing else is checked",
    "requests": "the number of requests of the instance",
    "family": "the family that the instance says it was drawn from",
}

_LEVELS = (*ServiceLimits.model_fields, *(f"classes.{limit}" for limit in ServiceLimits.model_fields))

#: What is done with each field of a result, by its path.
FIELDS: dict[str, Check] = {
    **{f"instance.{name}": Check("compared", words) for name, words in _STAMP.items()},
    "producer.kind": Check("unchecked", "what made it: a formulation, a policy or a local search"),
    "producer.name": Check("unchecked", "name of the policy or formulation; a formulation's rules are looked up by it"),
    "producer.solver": Check("unchecked", "which solver ran"),
    "producer.solver_version": Check("unchecked", "its version"),
    "producer.options": Check("unchecked", "with which options"),
    "producer.seed": Check("unchecked", "with which seed"),
    "producer.problem": Check("compared", "the problem of the formulation, where that is available"),
    "producer.modelkit": Check("unchecked", "which version of modelkit ran"),
    "producer.command": Check("unchecked", "the command line"),
    "producer.parameters": Check("compared", "what the formulation takes, where that is available; its rules use them"),
    "status": Check("recomputed", "from schedule, value and bound; 'infeasible' where that can be proven or refuted"),
    "stop": Check("consistent", "why the run ended; 'infeasible' needs a run that finished"),
    "message": Check("unchecked", "free text"),
    "load": Check("recomputed", "from the instance"),
    "objective.name": Check("compared", "the metrics of the judge, and the formulation's objective where available"),
    "objective.unit": Check("compared", "the unit of an objective of the formulation's own, where that is available"),
    "objective.value": Check("recomputed", "by replaying the schedule"),
    "objective.bound": Check("recomputed", "from the certificate; a solver's bound is named as not checked"),
    "objective.bound_by": Check("compared", "whether there is a certificate"),
    **{
        f"slo.{name}": Check("recomputed", "the metrics of service levels are computed again with it")
        for name in _LEVELS
    },
    "metrics": Check("recomputed", "by replaying the schedule, each of them"),
    "violations": Check("recomputed", "by replaying the schedule, each of them"),
    "schedule": Check("recomputed", "replayed against every rule of the judge and of the formulation"),
    **{f"certificate.instance.{name}": Check("compared", words) for name, words in _STAMP.items()},
    "certificate.kind": Check("compared", "the kind of instance that it is for"),
    "certificate.objective": Check("compared", "what its kind bounds, and the objective of the result"),
    "certificate.bound.numerator": Check("recomputed", "from the proof, in whole numbers"),
    "certificate.bound.denominator": Check("recomputed", "from the proof, in whole numbers"),
    "certificate.prices.denominator": Check("recomputed", "the bound is computed again from the prices"),
    "certificate.prices.rounds": Check("recomputed", "the bound is computed again from the prices"),
    "certificate.prices.numerators": Check("recomputed", "the bound is computed again from the prices"),
    "certificate.partitions.denominator": Check("recomputed", "the bound is computed again from the multipliers"),
    "certificate.partitions.floors": Check("recomputed", "the bound is computed again with them"),
    "certificate.partitions.multipliers": Check("recomputed", "the bound is computed again from them"),
    "certificate.weights.rounds": Check("recomputed", "whether the weights prove that number of rounds"),
    "certificate.weights.values": Check("recomputed", "whether they prove the rounds"),
    "certificate.work.memory_share": Check("recomputed", "the bound is computed again with it"),
    "certificate.work.cell": Check("recomputed", "the bound is computed again with it"),
    "certificate.work.rounds.denominator": Check("recomputed", "the bound is computed again from the prices"),
    "certificate.work.rounds.rounds": Check("recomputed", "the bound is computed again from the prices"),
    "certificate.work.rounds.numerators": Check("recomputed", "the bound is computed again from the prices"),
    "certificate.work.holding": Check("recomputed", "the bound is computed again with it"),
    "certificate.interference.delay_shares": Check("recomputed", "the bound is computed again with it"),
    "certificate.interference.prefills": Check(
        "recomputed", "whether no prefill is charged more than it costs; the bound is computed again from them"
    ),
    **{
        f"certificate.serving_prices.{name}": Check(
            "recomputed", "whether the prices cover no more than iterations cost; the bound is computed again from them"
        )
        for name in ServingPrices.model_fields
    },
    **{
        f"certificate.goodput.slo.{name}": Check("recomputed", "the windows of requests are computed again with it")
        for name in _LEVELS
    },
    **{
        f"certificate.goodput.{name}": Check("recomputed", "the bound is computed again from the prices on intervals")
        for name in Goodput.model_fields
        if name != "slo"
    },
    "certificate.seconds": Check("unchecked", "how long the proof took to find"),
    "relaxation.value": Check("consistent", "with the bound, which follows from it"),
    "relaxation.duals": Check("unchecked", "what a row is worth, as the solver says; a certificate of them is checked"),
    "relaxation.reduced_costs": Check("unchecked", "what a variable costs, as the solver says"),
    "progress": Check("consistent", "nothing gets worse, and nothing contradicts the final bound"),
    "start.policy": Check("unchecked", "the schedule that the solver started from"),
    "start.accepted": Check("unchecked", "whether the solver took it"),
    "model.variables": Check("unchecked", "size of the model"),
    "model.integers": Check("unchecked", "size of the model"),
    "model.constraints": Check("unchecked", "size of the model"),
    "model.nonzeros": Check("unchecked", "size of the model"),
    "model.starts_kept": Check("unchecked", "how many starts the model keeps"),
    "model.starts_in_all": Check("unchecked", "out of how many"),
    "seconds.build": Check("consistent", "not below 0"),
    "seconds.solve": Check("consistent", "not below 0"),
    "seconds.judge": Check("consistent", "not below 0"),
    "seconds.total": Check("consistent", "not below 0"),
    "stages.name": Check("unchecked", "what the stages of the run were"),
    "stages.seconds": Check("consistent", "not below 0"),
    "stages.value": Check("consistent", "not below the final bound"),
    "stages.bound": Check("consistent", "not above the final bound"),
    "stages.note": Check("unchecked", "free text"),
    "log": Check("unchecked", "what the solver printed"),
}


def field_paths(model: type[BaseModel] = Result, prefix: str = "") -> Iterator[str]:
    """The path of every field of a model, through the models that it is made of."""
    for name, field in model.model_fields.items():
        inner = [part for part in _parts(field.annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
        if inner:
            yield from field_paths(inner[0], f"{prefix}{name}.")
        else:
            yield prefix + name


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def unverified(result: Result) -> Iterator[tuple[str, str]]:
    """What a result states that is not checked, or only against itself: the field, and a sentence for it."""
    stated: dict[str, list[str]] = {}
    for path, check in FIELDS.items():
        if check.how in ("consistent", "unchecked") and any(map(_says, _values(result, path.split(".")))):
            stated.setdefault(path.partition(".")[0], []).append(path)
    for section, paths in stated.items():
        names = [path.partition(".")[2] for path in paths]
        listed = f"{section} ({', '.join(names)})" if names[0] else section
        consistent = [path for path in paths if FIELDS[path].how == "consistent"]
        if consistent == paths:
            yield section, f"{listed}: consistent with the rest of the file; nothing more can be checked from it"
        elif consistent:
            yield (
                section,
                f"{listed}: numbers are consistent with the rest of the file; nothing more can be checked from it",
            )
        else:
            yield section, f"{listed}: cannot be checked from the file"


def _values(record: Any, names: list[str]) -> Iterable[Any]:
    """The values at a path; several where it leads through a list."""
    if not names or record is None:
        return [record]
    if isinstance(record, list | tuple):
        return [value for entry in record for value in _values(entry, names)]
    return _values(getattr(record, names[0]), names[1:])


def _says(value: Any) -> bool:
    return value is not None and value not in ("", {}, [], ())
