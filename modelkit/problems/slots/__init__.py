"""The slot problem, prefill stages and decode rounds: packings, stage plans, limits on stages, search."""
