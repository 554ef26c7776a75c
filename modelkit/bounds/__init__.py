"""Lower bounds and what follows from them."""

from modelkit.bounds.certified import CertifiedBound, bound, slot_certificate
from modelkit.bounds.duals import linear_prices
from modelkit.bounds.hindsight import Hindsight, hindsight, local_search
from modelkit.bounds.stages import stage_limits
from modelkit.bounds.windows import Starts, check_size, possible_starts, start_windows, starts_kept
from modelkit.improve import TooLargeError, TooLateError

__all__ = [
    "CertifiedBound",
    "Hindsight",
    "Starts",
    "TooLargeError",
    "TooLateError",
    "bound",
    "check_size",
    "hindsight",
    "linear_prices",
    "local_search",
    "possible_starts",
    "slot_certificate",
    "stage_limits",
    "start_windows",
    "starts_kept",
]
