"""What a server sustains: the largest rate, or the least memory or slots, at which policies keep service levels."""

from __future__ import annotations

from modelkit.experiments.sustain.found import PolicyLimit, Sustained
from modelkit.experiments.sustain.page import sustain_page
from modelkit.experiments.sustain.sustaining import sustain

__all__ = ["PolicyLimit", "Sustained", "sustain", "sustain_page"]
