"""Bounds on serving in real time: what finds them; every certificate is recomputed by ``modelkit.verify``."""
