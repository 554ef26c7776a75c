"""modelkit: how far from optimal is this LLM inference schedule, and can you prove it?

>>> import modelkit as mk
>>> instance = mk.load("instance.json")  # doctest: +SKIP
>>> result = mk.solve(instance, time_limit=60)  # doctest: +SKIP
>>> online = mk.simulate(instance, "mc-sf")  # doctest: +SKIP

Names are imported when they are first used: importing modelkit loads no solver and no Pyomo.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from modelkit.runtime.resources import VERSION

if TYPE_CHECKING:  # the same once more, for type checkers
    from modelkit.authoring.check import check as check
    from modelkit.authoring.diagnose import diagnose as diagnose
    from modelkit.authoring.export import build as build
    from modelkit.backends.separator import Separator as Separator
    from modelkit.backends.terms import linear as linear
    from modelkit.certificate import Certificate as Certificate
    from modelkit.clock import LinearClock as LinearClock
    from modelkit.clock import UnitClock as UnitClock
    from modelkit.errors import FormulationError as FormulationError
    from modelkit.errors import InfeasibleError as InfeasibleError
    from modelkit.errors import InputError as InputError
    from modelkit.errors import ModelkitError as ModelkitError
    from modelkit.errors import UsageError as UsageError
    from modelkit.experiments.compare import compare as compare
    from modelkit.experiments.logs import judge_log as judge_log
    from modelkit.experiments.sustain import Sustained as Sustained
    from modelkit.experiments.sustain import sustain as sustain
    from modelkit.formulation.formulation import Formulation as Formulation
    from modelkit.formulation.formulation import chosen as chosen
    from modelkit.formulation.parameters import Parameter as Parameter
    from modelkit.instance import Instance as Instance
    from modelkit.instance import Pause as Pause
    from modelkit.instance import Prefix as Prefix
    from modelkit.instance import PrefixCache as PrefixCache
    from modelkit.instance import Request as Request
    from modelkit.instance import Server as Server
    from modelkit.io import load as load
    from modelkit.io import load_certificate as load_certificate
    from modelkit.io import load_claim as load_claim
    from modelkit.io import load_result as load_result
    from modelkit.io import save_certificate as save_certificate
    from modelkit.io import save_instance as save_instance
    from modelkit.io import save_result as save_result
    from modelkit.judge import RequestTimes as RequestTimes
    from modelkit.judge import Verdict as Verdict
    from modelkit.policies import Policy as Policy
    from modelkit.policies import Room as Room
    from modelkit.policies import View as View
    from modelkit.policies import policy as policy
    from modelkit.problems.kv.clique_rows import CliqueRow as CliqueRow
    from modelkit.problems.kv.clique_rows import clique_separation as clique_separation
    from modelkit.problems.kv.local_search import TooLargeError as TooLargeError
    from modelkit.problems.kv.local_search import list_schedule as list_schedule
    from modelkit.problems.kv.local_search import schedule_of as schedule_of
    from modelkit.problems.kv.start_windows import possible_starts as possible_starts
    from modelkit.problems.problem import Problem as Problem
    from modelkit.problems.problem import kv_refusal as kv_refusal
    from modelkit.problems.problem import preemptive_refusal as preemptive_refusal
    from modelkit.problems.problem import problem_of as problem_of
    from modelkit.problems.problem import serving_refusal as serving_refusal
    from modelkit.problems.problem import stages_refusal as stages_refusal
    from modelkit.problems.problem import unit_prefixes_refusal as unit_prefixes_refusal
    from modelkit.problems.serving.iterations import schedule_from_iterations as schedule_from_iterations
    from modelkit.problems.slots.packing import pack as pack
    from modelkit.problems.slots.packing import packing_bound as packing_bound
    from modelkit.problems.slots.stages import Stage as Stage
    from modelkit.problems.slots.stages import schedule_from_queues as schedule_from_queues
    from modelkit.problems.slots.stages import schedule_from_stages as schedule_from_stages
    from modelkit.reporting.comparison import Comparison as Comparison
    from modelkit.reporting.drawing import Drawing as Drawing
    from modelkit.reporting.drawing import draw as draw
    from modelkit.reporting.perfetto import perfetto_trace as perfetto_trace
    from modelkit.reporting.render import report as report
    from modelkit.result import Progress as Progress
    from modelkit.result import Result as Result
    from modelkit.schedule import Admission as Admission
    from modelkit.schedule import Schedule as Schedule
    from modelkit.schedule import Segment as Segment
    from modelkit.schedule import rounds_of as rounds_of
    from modelkit.schedule import schedule_from_rounds as schedule_from_rounds
    from modelkit.schedule import schedule_from_starts as schedule_from_starts
    from modelkit.simulation.simulate import simulate as simulate
    from modelkit.solving import solve as solve
    from modelkit.solving.bound import CertifiedBound as CertifiedBound
    from modelkit.solving.bound import bound as bound
    from modelkit.solving.goodput import sustainable_rate as sustainable_rate
    from modelkit.solving.known import Known as Known
    from modelkit.solving.known import clique_rows as clique_rows
    from modelkit.solving.known import stage_limits as stage_limits
    from modelkit.solving.known import start_windows as start_windows
    from modelkit.solving.resolving import resolve as resolve
    from modelkit.sources.families import generate as generate
    from modelkit.sources.library.entries import library_entries as library_entries
    from modelkit.sources.library.instances import library as library
    from modelkit.sources.logs.importing import import_log as import_log
    from modelkit.sources.servers import find_server as find_server
    from modelkit.sources.servers import presets as presets
    from modelkit.sources.traces import import_trace as import_trace
    from modelkit.sources.traces.writing import mooncake_trace as mooncake_trace
    from modelkit.verify.certificates import verify_certificate as verify_certificate
    from modelkit.verify.findings import Verification as Verification
    from modelkit.verify.formulation_rules import verify_result as verify_result
    from modelkit.verify.slot_bound import slot_bound as slot_bound

#: The public names of each module: all that formulations and policies need.
_PUBLIC = {
    "authoring.check": ("check",),
    "authoring.diagnose": ("diagnose",),
    "authoring.export": ("build",),
    "backends.separator": ("Separator",),
    "backends.terms": ("linear",),
    "certificate": ("Certificate",),
    "errors": ("FormulationError", "InfeasibleError", "InputError", "ModelkitError", "UsageError"),
    "experiments.compare": ("compare",),
    "experiments.logs": ("judge_log",),
    "experiments.sustain": ("Sustained", "sustain"),
    "formulation.formulation": ("Formulation", "chosen"),
    "formulation.parameters": ("Parameter",),
    "clock": ("LinearClock", "UnitClock"),
    "instance": ("Instance", "Pause", "Prefix", "PrefixCache", "Request", "Server"),
    "io": ("load", "load_certificate", "load_claim", "load_result", "save_certificate", "save_instance", "save_result"),
    "judge": ("RequestTimes", "Verdict"),
    "policies": ("Policy", "Room", "View", "policy"),
    "problems.kv.clique_rows": ("CliqueRow", "clique_separation"),
    "problems.kv.local_search": ("TooLargeError", "list_schedule", "schedule_of"),
    "problems.kv.start_windows": ("possible_starts",),
    "problems.problem": (
        "Problem",
        "kv_refusal",
        "preemptive_refusal",
        "problem_of",
        "serving_refusal",
        "stages_refusal",
        "unit_prefixes_refusal",
    ),
    "problems.serving.iterations": ("schedule_from_iterations",),
    "problems.slots.packing": ("pack", "packing_bound"),
    "problems.slots.stages": ("Stage", "schedule_from_queues", "schedule_from_stages"),
    "reporting.comparison": ("Comparison",),
    "reporting.drawing": ("Drawing", "draw"),
    "reporting.perfetto": ("perfetto_trace",),
    "reporting.render": ("report",),
    "result": ("Progress", "Result"),
    "schedule": ("Admission", "Schedule", "Segment", "rounds_of", "schedule_from_rounds", "schedule_from_starts"),
    "simulation.simulate": ("simulate",),
    "solving": ("solve",),
    "solving.bound": ("CertifiedBound", "bound"),
    "solving.goodput": ("sustainable_rate",),
    "solving.known": ("Known", "clique_rows", "stage_limits", "start_windows"),
    "solving.resolving": ("resolve",),
    "sources.families": ("generate",),
    "sources.library.entries": ("library_entries",),
    "sources.library.instances": ("library",),
    "sources.logs.importing": ("import_log",),
    "sources.servers": ("find_server", "presets"),
    "sources.traces": ("import_trace",),
    "sources.traces.writing": ("mooncake_trace",),
    "verify.certificates": ("verify_certificate",),
    "verify.findings": ("Verification",),
    "verify.formulation_rules": ("verify_result",),
    "verify.slot_bound": ("slot_bound",),
}
_HOMES = {name: module for module, names in _PUBLIC.items() for name in names}

#: Said where modelkit does not run: it needs the processes, signals and limits of POSIX.
NOT_POSIX = "modelkit runs on Linux, macOS and other POSIX systems only; on Windows, use WSL"

__version__ = VERSION
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'modelkit' has no attribute {name!r}")
    if os.name != "posix":
        raise ImportError(NOT_POSIX)
    value = getattr(import_module(f"modelkit.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
