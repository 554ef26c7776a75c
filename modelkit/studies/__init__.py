"""Studies: grids of runs from a TOML file, resumable, on this machine or a cluster."""

from modelkit.studies.claims import Claim, Measured, Verdict, verdicts
from modelkit.studies.grid import Cell, cells
from modelkit.studies.page import report_study
from modelkit.studies.plan import Study, load_study, shipped_studies
from modelkit.studies.running import Status, Step, estimate, folder_of, run_study, status
from modelkit.studies.store import Entry, Store, export, measured

__all__ = [
    "Cell", "Claim", "Entry", "Measured", "Status", "Step", "Store", "Study", "Verdict", "cells", "estimate", "export",
    "folder_of", "load_study", "measured", "report_study", "run_study", "shipped_studies", "status", "verdicts",
]  # fmt: skip
