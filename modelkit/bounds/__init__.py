"""Lower bounds and what follows from them."""

from modelkit.bounds.certified import CertifiedBound, bound
from modelkit.bounds.duals import linear_prices
from modelkit.bounds.hindsight import Hindsight, hindsight
from modelkit.bounds.windows import Starts, check_size, start_windows, starts_kept
from modelkit.improve import TooLargeError

__all__ = [
    "CertifiedBound",
    "Hindsight",
    "Starts",
    "TooLargeError",
    "bound",
    "check_size",
    "hindsight",
    "linear_prices",
    "start_windows",
    "starts_kept",
]
