"""Lower bounds and what follows from them."""

from modelkit.bounds.stages import stage_limits
from modelkit.bounds.windows import TooLargeError, possible_starts, start_windows, starting_prices

__all__ = ["TooLargeError", "possible_starts", "stage_limits", "start_windows", "starting_prices"]
