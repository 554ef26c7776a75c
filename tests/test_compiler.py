"""The compiler of linear models against Pyomo's own, and the sums that it reads as lists."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest
from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

from modelkit import linear
from modelkit.backends.compiler import compile_linear
from modelkit.backends.terms import LinearSum
from modelkit.errors import SolverError
from modelkit.formulation.loading import load_formulation
from modelkit.instance import Instance, Request, Server
from modelkit.solving.known import known_of


def mixed() -> Any:
    """Sums as lists and as Pyomo's expressions, with what makes lists be read term by term."""
    m = pyo.ConcreteModel()
    m.x = pyo.Var([1, 2, 3], domain=pyo.Binary)
    m.y = pyo.Var(["unused", "used"], bounds=(0, 5))
    m.p = pyo.Param(initialize=3, mutable=True)
    x = list(m.x.values())
    m.goal = pyo.Objective(expr=linear([1, 0, 2], x) + 7, sense=pyo.maximize)
    m.plain = pyo.Constraint(expr=linear([1, 2, 3], x) == 1)
    m.repeated = pyo.Constraint(expr=linear([1, 2, -4], [x[0], x[1], x[0]]) <= m.p)
    m.parameter = pyo.Constraint(expr=linear([m.p, 2], x[:2]) + x[0] - linear([1.5], [m.y["used"]]) >= m.p - 1)
    m.both = pyo.Constraint(expr=(1, linear([2, 1], x[1:]), 5))
    m.holds = pyo.Constraint(expr=linear([1], [m.y["used"]]) - m.y["used"] <= 1)
    m.off = pyo.Constraint(expr=linear([1], x[:1]) <= 0)
    m.off.deactivate()
    return m


def compiled_alike(model: Any) -> None:
    """Asserts that both compilers give the same arrays, rows and columns."""
    ours = compile_linear(model)
    theirs = LinearStandardFormCompiler().write(model, mixed_form=True, set_sense=pyo.minimize)
    assert [v.name for v in ours.columns] == [v.name for v in theirs.columns]
    assert [(e.constraint.name, e.bound_type) for e in ours.rows] == [
        (e.constraint.name, e.bound_type) for e in theirs.rows
    ]
    assert (ours.matrix != theirs.A).nnz == 0
    assert ours.matrix.nnz == theirs.A.nnz
    assert ours.cost.tolist() == theirs.c.toarray()[0].tolist()
    assert (ours.offset, ours.rhs.tolist()) == (float(theirs.c_offset[0]), np.asarray(theirs.rhs).tolist())


def test_sums_of_both_kinds() -> None:
    """Tests repeated variables, parameters, two sides, rows that hold anyway, what is switched off, and fixed ones."""
    compiled_alike(mixed())
    model = mixed()
    model.x[2].fix(1)
    compiled_alike(model)
    assert [v.name for v in compile_linear(model).columns] == ["x[1]", "x[3]", "y[used]"]


def test_formulations() -> None:
    """Tests the bundled formulations that are built from sums as lists."""
    requests = tuple(Request(id=str(i), prompt_tokens=1 + i, output_tokens=3 - i) for i in range(3))
    instance = Instance(server=Server(kv_capacity_tokens=5), requests=requests)
    for name in ("kv-hindsight", "kv-hindsight-flow", "kv-hindsight-classes", "kv-hindsight-cliques"):
        formulation = load_formulation(name)
        compiled_alike(formulation.instantiate(instance, known_of(formulation, instance)))


def test_what_is_no_linear_model() -> None:
    """Tests that it is said in which row, and that a row without variables must hold."""
    model = mixed()
    model.square = pyo.Constraint(expr=model.x[1] * model.x[2] <= 1)
    with pytest.raises(ValueError, match="square"):
        compile_linear(model)
    model = mixed()
    model.second = pyo.Objective(expr=model.x[1])
    with pytest.raises(SolverError, match="2 active objectives"):
        compile_linear(model)


def test_a_sum_is_a_linear_expression() -> None:
    """Tests that Pyomo reads, writes, changes, copies and pickles it as its own."""
    model = mixed()
    body = model.plain.body
    assert type(body) is LinearSum
    assert (str(body), body.lists is not None, body.polynomial_degree()) == ("x[1] + 2*x[2] + 3*x[3]", False, 1)
    model = mixed()
    copies = model.clone(), pickle.loads(pickle.dumps(model))
    for copy in copies:
        assert str(copy.plain.expr) == "x[1] + 2*x[2] + 3*x[3]  ==  1"
        compiled_alike(copy)
    for x in model.x.values():
        x.set_value(1)
    assert pyo.value(model.plain.body) == 6
    with pytest.raises(ValueError, match="1 coefficients of 2 variables"):
        linear([1], list(model.x.values())[:2])
