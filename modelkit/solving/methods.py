"""How each problem is solved and bounded, in one table."""

from __future__ import annotations

from modelkit.problems.problem import (
    KV,
    PREEMPTIVE,
    SERVING,
    SERVING_PREFIXES,
    SERVING_REPLICAS,
    SLOTS,
    UNIT_PREFIXES,
    UNIT_REPLICAS,
    UNIT_SLOTS,
    Problem,
)
from modelkit.solving.kv import KvMethod
from modelkit.solving.method import Method
from modelkit.solving.preemptive import PreemptiveMethod
from modelkit.solving.prefixes import ServingPrefixMethod, UnitPrefixMethod
from modelkit.solving.replicas import ServingReplicasMethod, UnitReplicasMethod
from modelkit.solving.serving import ServingMethod
from modelkit.solving.slots import SlotMethod
from modelkit.solving.unit_slots import UnitSlotMethod

#: By problem.
METHODS: dict[Problem, Method] = {
    KV: KvMethod(),
    UNIT_SLOTS: UnitSlotMethod(),
    SLOTS: SlotMethod(),
    SERVING: ServingMethod(),
    UNIT_REPLICAS: UnitReplicasMethod(),
    SERVING_REPLICAS: ServingReplicasMethod(),
    PREEMPTIVE: PreemptiveMethod(),
    UNIT_PREFIXES: UnitPrefixMethod(),
    SERVING_PREFIXES: ServingPrefixMethod(),
}
#: That of formulations of no problem, and of problems of which no more is known.
PLAIN = Method()


def method_of(problem: Problem | None) -> Method:
    """The method of a problem; that of policies where there is none."""
    return PLAIN if problem is None else METHODS[problem]
