"""The arrays of a Pyomo model whose mutable parameters change: only what depends on them is computed again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from modelkit.backends.standard_form import StandardForm, compile_entries
from modelkit.runtime.threads import PYOMO


class ChangingForm:
    """A model's arrays, with the places that depend on its mutable parameters.

    Raises
    ------
    SolverError
        See `modelkit.backends.standard_form.compile_model`.

    Notes
    -----
    Making it looks through all expressions once; `updated` costs what the places that depend cost.
    """

    def __init__(self, model: Any) -> None:
        import pyomo.environ as pyo

        self.model = model
        self.objective: Any = next(model.component_data_objects(pyo.Objective, active=True), None)
        self._compile()

    def _compile(self) -> None:
        self.form, self.columns, self.entries = compile_entries(self.model)
        self.position = {id(var): j for j, var in enumerate(self.columns)}
        self.rows = [r for r, entry in enumerate(self.entries) if _depends(entry.constraint.expr)]
        self.bounded = [j for j, var in enumerate(self.columns) if _depends(var.lower) or _depends(var.upper)]
        self.costed = self.objective is not None and _depends(self.objective.expr)

    def updated(self) -> StandardForm:
        """The arrays with the parameters as they are now."""
        with PYOMO:
            changed = self._changed()
        if changed is None:  # a coefficient where there was none
            self._compile()
            return self.form
        return changed

    def _changed(self) -> StandardForm | None:
        form = self.form
        values, cost, offset = form.values.copy(), form.cost, form.offset
        row_lower, row_upper = form.row_lower.copy(), form.row_upper.copy()
        lower, upper = form.lower.copy(), form.upper.copy()
        for r in self.rows:
            entry = self.entries[r]
            terms, constant = self._linear(entry.constraint.body)
            for k in range(form.indptr[r], form.indptr[r + 1]):
                values[k] = terms.pop(int(form.indices[k]), 0.0)
            if any(terms.values()):
                return None
            if entry.bound_type <= 0:
                row_lower[r] = entry.constraint.lb - constant
            if entry.bound_type >= 0:
                row_upper[r] = entry.constraint.ub - constant
        for j in self.bounded:
            low, high = self.columns[j].bounds
            lower[j] = -np.inf if low is None else low
            upper[j] = np.inf if high is None else high
        if self.costed:
            terms, offset = self._linear(self.objective.expr)
            cost = np.zeros(len(self.columns))
            cost[list(terms)] = list(terms.values())
        return replace(form, values=values, cost=cost, offset=offset, row_lower=row_lower, row_upper=row_upper,
                       lower=lower, upper=upper)  # fmt: skip

    def _linear(self, expression: Any) -> tuple[dict[int, float], float]:
        """Coefficients by column, and the constant."""
        from pyomo.repn import generate_standard_repn

        found = generate_standard_repn(expression, quadratic=False)
        terms: dict[int, float] = {}
        for var, coefficient in zip(found.linear_vars, found.linear_coefs, strict=True):
            j = self.position[id(var)]
            terms[j] = terms.get(j, 0.0) + float(coefficient)
        return terms, float(found.constant)


def _depends(expression: Any) -> bool:
    """Whether there is a mutable parameter in it."""
    from pyomo.core.expr.numvalue import native_types
    from pyomo.core.expr.visitor import identify_mutable_parameters

    if expression is None or type(expression) in native_types:
        return False
    return next(identify_mutable_parameters(expression), None) is not None
