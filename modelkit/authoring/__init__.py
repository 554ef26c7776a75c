"""For those who write formulations: a new one, its checks, its mathematics, why there is no schedule, model files."""
