"""When and on what a benchmark was run: written into every results file."""

from __future__ import annotations

import datetime
import os
import platform


def stamp() -> dict[str, str]:
    """The date, and the machine with its load before the run: what else runs makes wall-clock times longer."""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{machine}, load {os.getloadavg()[0]:.1f} before",
    }
