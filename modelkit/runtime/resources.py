"""What the package carries beside its code: its version; formulations, instances, templates of reports."""

from __future__ import annotations

from pathlib import Path

VERSION = "0.1.0"


def bundled(kind: str) -> Path:
    """Folder of what comes with modelkit: ``formulations``, ``instances``.

    In an installed wheel it lies in the package; in a checkout beside it.
    """
    package = Path(__file__).resolve().parent.parent
    inside = package / "_bundled" / kind
    return inside if inside.is_dir() else package.parent / kind
