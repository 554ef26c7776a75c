"""Prices from the linear relaxation: HiGHS's duals, for instances small enough for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelkit.bounds.relaxation import Floats
from modelkit.errors import SolverError
from modelkit.instance import Instance


def linear_prices(instance: Instance, *, time_limit: float | None = None) -> tuple[Floats, float | None]:
    """Prices from the duals of ``kv-hindsight-lp``, and its optimum.

    The capacity stands in it as the upper bound of ``held[t]``, so the price of round t is minus that
    variable's reduced cost. Any duals make valid prices: those of an unfinished solve are only worse.

    Parameters
    ----------
    time_limit
        Seconds, None for none.

    Returns
    -------
    Price of each round (index = round, entry 0 unused), and the optimum; None when it was not reached.

    Raises
    ------
    TooLargeError
        The instance has too many starts.
    SolverError
        HiGHS has no duals to give.
    """
    from modelkit.backends import engine  # late, as it is for all other solves
    from modelkit.backends.standard_form import compile_model
    from modelkit.plugins import load_formulation

    model = load_formulation("kv-hindsight-lp").instantiate(instance)
    form, columns = compile_model(model)
    limit: dict[str, Any] = {} if time_limit is None else {"time_limit": float(time_limit)}
    solver = engine.new_highs(form, **limit)
    engine.run(solver)
    solution = solver.getSolution()
    if not solution.dual_valid:
        raise SolverError("HiGHS ended without duals of kv-hindsight-lp")
    place = {id(column): c for c, column in enumerate(columns)}
    prices = np.zeros(max(model.ROUNDS) + 1)
    for t in model.ROUNDS:
        if id(model.held[t]) in place:
            prices[t] = max(0.0, -solution.col_dual[place[id(model.held[t])]])
    return prices, form.objective(np.array(solution.col_value)) if engine.is_optimal(solver) else None
