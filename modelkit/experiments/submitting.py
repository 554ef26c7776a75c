"""What is submitted to the library: a schedule or a bound is checked, compared with the best known, and written.

Nothing in the file is believed. The schedule is judged again by the entry's objective, the bound is recomputed exactly,
and a policy is run again before it counts as one.
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelkit.arguments import checked_arguments
from modelkit.certificate import Certificate
from modelkit.errors import ModelkitError, UsageError
from modelkit.instance import Instance, InstanceStamp
from modelkit.io import save_certificate, save_result
from modelkit.judge import judge
from modelkit.policies import policies
from modelkit.result import OF_THE_ENGINE, Objective, Producer, Result, Seconds, agree
from modelkit.runtime.resources import VERSION
from modelkit.simulation.simulate import simulate
from modelkit.sources.library import Entry, library, library_entries, library_folder, write_entries
from modelkit.sources.library.compact import compact
from modelkit.sources.library.divisions import division_of
from modelkit.sources.library.entries import BestPolicy, FoundBound, FoundValue
from modelkit.text import metric_noun, number, unit_of
from modelkit.verify.certificates import verify_certificate
from modelkit.verify.formulation_rules import verify_result


class NotVerifiedError(ModelkitError):
    """What was submitted is wrong."""

    exit_code = 5


class NotBetterError(UsageError):
    """What was submitted is right, and no better than what the library has."""


@dataclass
class Submission:
    """What a file changes in the library.

    Parameters
    ----------
    before, after
        The entry.
    who, machine
        For the record, in words.
    changes, refusals
        What is better, and what is not, one sentence each.
    result, certificate
        The new best schedule and proof, where the file has them.
    """

    before: Entry
    after: Entry
    who: str
    machine: str
    changes: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    result: Result | None = None
    certificate: Certificate | None = None

    def take_value(self, result: Result, instance: Instance) -> None:
        """The schedule of a result, if it is better than all before."""
        name, best = self.before.objective, self.before.upper_bound
        verdict = judge(instance, result.schedule) if result.schedule is not None else None
        value = None if verdict is None or not verdict.valid else verdict.metrics[name]
        if verdict is None or value is None:
            self.refusals.append("it has no valid schedule")
        elif best is not None and (value >= best or agree(value, best)):
            self.refusals.append(f"{metric_noun(name)} {_shown(name, value)}; the best known is {_shown(name, best)}")
        else:
            self.changes.append(f"{metric_noun(name)}: {_shown(name, best)} -> {_shown(name, value)}")
            path = f"schedules/{self.before.instance}.result.json.gz"
            found = self._found(value, _method(result), result.seconds.total)
            self.after = self.after.with_found(upper=FoundValue(**found, schedule=path))
            self.result = _plain(result, instance, name, value)

    def take_policy(self, result: Result, instance: Instance) -> None:
        """The policy of a result, if it does the same again and better than all of its division."""
        producer, name = result.producer, self.before.objective
        if result.schedule is None or producer.kind != "policy" or producer.name not in policies():
            return
        told = producer.options.get("predictions")
        division = division_of(instance, told)
        if division is None or producer.seed not in (None, 0):
            self.refusals.append(
                "of no division of policies: those are run with seed 0, and told what divisions are told"
            )
            return
        label = producer.policy
        engine = {key: value for key, value in producer.options.items() if key in OF_THE_ENGINE}
        value = simulate(instance, label, **engine).metrics[name]
        if value is None or not agree(value, judge(instance, result.schedule).metrics[name]):
            self.refusals.append(f"the policy {label} makes another schedule when it is run again")
            return
        best = self.before.policies.get(division)
        if best is not None and (value >= best.value or agree(value, best.value)):
            words = f"{_shown(name, value)}; {best.policy} has {_shown(name, best.value)}"
            self.refusals.append(f"{division} policies: {words}")
            return
        before = None if best is None else best.value
        self.changes.append(f"{division} policies: {_shown(name, before)} -> {_shown(name, value)}, by {label}")
        found = BestPolicy(policy=label, predictions=told, value=value, date=_today(), who=self.who)
        self.after = self.after.with_policy(division, found)

    def take_bound(self, certificate: Certificate, instance: Instance, seconds: float | None) -> None:
        """The bound of a certificate that was verified, if it is better than all before; found in so many seconds."""
        name, best = self.before.objective, self.before.lower_bound
        certificate = compact(certificate, instance)
        if certificate.metric != name:
            self.refusals.append(
                f"its certificate bounds the {metric_noun(certificate.metric)}, not {metric_noun(name)}"
            )
        elif best is not None and (certificate.value <= best or agree(certificate.value, best)):
            self.refusals.append(f"bound {_shown(name, certificate.value)}; the best known is {_shown(name, best)}")
        else:
            self.changes.append(f"lower bound: {_shown(name, best)} -> {_shown(name, certificate.value)}")
            path = f"certificates/{self.before.instance}.certificate.json.gz"
            found = self._found(certificate.value, f"{certificate.kind}, modelkit {VERSION}", seconds)
            self.after = self.after.with_found(lower=FoundBound(**found, certificate=path))
            self.certificate = certificate

    def _found(self, value: float, method: str, seconds: float | None) -> dict[str, Any]:
        spent = None if seconds is None else round(seconds, 1)
        words = {"who": self.who, "method": method, "machine": self.machine}
        return {"value": value, "date": _today(), "seconds": spent, **words}


@checked_arguments
def submission(
    claim: Result | Certificate,
    *,
    who: str = "anonymous",
    machine: str | None = None,
    trace: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Submission:
    """What a result or certificate changes in the library; nothing is written yet.

    Parameters
    ----------
    who
        Name for the record.
    machine
        On which it was found, in words; None: the number of processors of this one.
    trace
        The public file that the instance is made from, where it is.
    folder
        Where ``library.json`` lies; None: the library that comes with modelkit.

    Raises
    ------
    NotVerifiedError
        The file is wrong; with every reason.
    NotBetterError
        It is right, and no better than what the library has.
    UsageError
        The library has no such instance.
    """
    entry = entry_of(claim.instance, folder)
    instance = library(entry.instance, trace=trace, folder=folder)
    certificate = claim.certificate if isinstance(claim, Result) else claim
    verified = verify_result(claim, instance) if isinstance(claim, Result) else verify_certificate(claim, instance)
    if not verified.holds:
        raise NotVerifiedError("not taken, for the file is wrong:\n  " + "\n  ".join(verified.faults))
    found = Submission(entry, entry, _one_line(who) or "anonymous", _one_line(machine) or f"{os.cpu_count()} cores")
    if isinstance(claim, Result):
        found.take_value(claim, instance)
        found.take_policy(claim, instance)
    if certificate is not None:
        spent = certificate.seconds
        if spent is None and isinstance(claim, Result):
            spent = claim.seconds.total
        found.take_bound(certificate, instance, spent)
    if not found.changes:
        closed = ", which is closed: its best schedule is proven optimal" if entry.status == "closed" else ""
        raise NotBetterError(
            f"not taken, for nothing of {entry.instance} gets better{closed}:\n  " + "\n  ".join(found.refusals)
        )
    lower, upper = found.after.lower_bound, found.after.upper_bound
    if lower is not None and upper is not None and lower > upper and not agree(lower, upper):
        words = f"the bound {number(lower, 10)} is above {number(upper, 10)}, the value of a schedule"
        raise NotVerifiedError(f"not taken: {words}; this is a bug in modelkit, please report it")
    return found


def _one_line(words: str | None) -> str:
    """What a record and a table can show."""
    return " ".join("".join(c if c.isprintable() else " " for c in words or "").split())


def entry_of(stamp: InstanceStamp, folder: str | os.PathLike[str] | None = None) -> Entry:
    """The entry of the instance that a file is about.

    Raises
    ------
    UsageError
        There is none.
    """
    for entry in library_entries(folder).values():
        if entry.sha256 == stamp.sha256:
            return entry
    raise UsageError(
        f"the library has no instance {stamp.name!r} with the hash {stamp.sha256[:16]}...; `modelkit library list`"
        " shows what it has"
    )


def write_submission(found: Submission, folder: str | os.PathLike[str]) -> list[Path]:
    """Write what a submission changes: ``library.json``, the schedule and the certificate; the files.

    Parameters
    ----------
    folder
        Where ``library.json`` lies; a new one begins with the entries that come with modelkit.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    written = []
    if found.result is not None and (name := found.after.schedule_path) is not None:
        save_result(found.result, _in_folder(place / name))
        written.append(place / name)
    if found.certificate is not None and (name := found.after.certificate_path) is not None:
        save_certificate(found.certificate, _in_folder(place / name))
        written.append(place / name)
    entries = library_entries(place if (place / "library.json").exists() else None)
    return [write_entries({**entries, found.after.instance: found.after}, place), *written]


def _in_folder(path: Path) -> Path:
    """A path whose folder is there."""
    path.parent.mkdir(exist_ok=True)
    return path


def default_folder() -> Path:
    """Where submissions are written: in a checkout its own library, else ``library`` in this folder."""
    own = library_folder()
    return own if "_bundled" not in own.parts else Path("library")


def _plain(result: Result, instance: Instance, name: str, value: float) -> Result:
    """A result with the schedule, who made it and what it is worth; nothing that only its maker can know."""
    producer = result.producer
    return Result(
        instance=InstanceStamp.of(instance),
        producer=Producer(kind=producer.kind, name=producer.name, solver=producer.solver, seed=producer.seed),
        status="feasible",
        stop="finished",
        objective=Objective(name=name, value=value),
        metrics={name: value},
        schedule=result.schedule,
        seconds=Seconds(total=result.seconds.total),
    )


def _method(result: Result) -> str:
    """How a schedule was made, in words; a solver's word on its optimality is no certificate, but worth a record."""
    producer = result.producer
    claimed = "; optimal by its own word" if result.status == "optimal" and result.certificate is None else ""
    solver = f" on {producer.solver}" if producer.solver else ""
    version = f", modelkit {producer.modelkit}" if producer.modelkit else ""
    return f"{producer.policy if producer.kind == 'policy' else producer.name}{solver}{version}{claimed}"


def _shown(metric: str, value: float | None) -> str:
    return "none" if value is None else f"{number(value, 10)} {unit_of(metric)}"


def _today() -> str:
    return datetime.date.today().isoformat()
