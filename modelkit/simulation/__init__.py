"""Simulation of online policies: continuous batching under every clock, and slots in stages."""
