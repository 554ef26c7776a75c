"""Exact recomputation of what results and certificates claim; shares nothing with what finds it."""
