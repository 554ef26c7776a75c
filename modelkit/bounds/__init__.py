"""Lower bounds and what follows from them."""

from modelkit.bounds.windows import TooLargeError, start_windows, starting_prices

__all__ = ["TooLargeError", "start_windows", "starting_prices"]
