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

from modelkit.version import VERSION

if TYPE_CHECKING:
    from modelkit.bounds import CertifiedBound, bound
    from modelkit.certificate import Certificate
    from modelkit.comparing import Comparison, compare
    from modelkit.conformance import check
    from modelkit.diagnosis import diagnose
    from modelkit.errors import ModelkitError
    from modelkit.families import generate
    from modelkit.formulation import Formulation
    from modelkit.instance import Instance, LinearClock, Request, Server, UnitClock
    from modelkit.io import (
        load,
        load_certificate,
        load_claim,
        load_result,
        save_certificate,
        save_instance,
        save_result,
    )
    from modelkit.judge import RequestTimes, Verdict
    from modelkit.parameters import Parameter
    from modelkit.reporting import report
    from modelkit.result import Result
    from modelkit.schedule import Admission, Schedule, Segment
    from modelkit.servers import find_server, presets
    from modelkit.simulator import simulate
    from modelkit.solving import solve
    from modelkit.traces import import_trace
    from modelkit.verify import Verification, verify_certificate
    from modelkit.verifying import verify_result

_HOMES = {
    "Admission": "schedule",
    "Certificate": "certificate",
    "CertifiedBound": "bounds",
    "Comparison": "comparing",
    "Formulation": "formulation",
    "Instance": "instance",
    "LinearClock": "instance",
    "ModelkitError": "errors",
    "Parameter": "parameters",
    "Request": "instance",
    "RequestTimes": "judge",
    "Result": "result",
    "Schedule": "schedule",
    "Segment": "schedule",
    "Server": "instance",
    "UnitClock": "instance",
    "Verdict": "judge",
    "Verification": "verify",
    "bound": "bounds",
    "check": "conformance",
    "compare": "comparing",
    "diagnose": "diagnosis",
    "find_server": "servers",
    "generate": "families",
    "import_trace": "traces",
    "load": "io",
    "load_certificate": "io",
    "load_claim": "io",
    "load_result": "io",
    "presets": "servers",
    "report": "reporting",
    "save_certificate": "io",
    "save_instance": "io",
    "save_result": "io",
    "simulate": "simulator",
    "solve": "solving",
    "verify_certificate": "verify",
    "verify_result": "verifying",
}

#: Said where modelkit does not run: it needs the processes, signals and limits of POSIX.
NOT_POSIX = "modelkit runs on Linux, macOS and other POSIX systems only; on Windows, use WSL"

__version__ = VERSION
__all__ = [
    "Admission",
    "Certificate",
    "CertifiedBound",
    "Comparison",
    "Formulation",
    "Instance",
    "LinearClock",
    "ModelkitError",
    "Parameter",
    "Request",
    "RequestTimes",
    "Result",
    "Schedule",
    "Segment",
    "Server",
    "UnitClock",
    "Verdict",
    "Verification",
    "bound",
    "check",
    "compare",
    "diagnose",
    "find_server",
    "generate",
    "import_trace",
    "load",
    "load_certificate",
    "load_claim",
    "load_result",
    "presets",
    "report",
    "save_certificate",
    "save_instance",
    "save_result",
    "simulate",
    "solve",
    "verify_certificate",
    "verify_result",
]


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
