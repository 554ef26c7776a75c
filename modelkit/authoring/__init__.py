"""Tools for writing formulations: a new one, its checks, its mathematics, why there is no schedule, model files."""
