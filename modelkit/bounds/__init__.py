"""Lower bounds and what follows from them."""

from modelkit.bounds.windows import start_windows

__all__ = ["start_windows"]
