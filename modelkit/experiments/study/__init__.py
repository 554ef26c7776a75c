"""Studies: grids of runs from a TOML file, resumable, on this machine or a cluster."""

from modelkit.experiments.study.grid import Cell, cells
from modelkit.experiments.study.page import report_study
from modelkit.experiments.study.paper_figures import Measured, PaperFigure, Verdict, verdicts
from modelkit.experiments.study.plan import Study, load_study, shipped_studies
from modelkit.experiments.study.running import Status, Step, estimate, folder_of, run_study, status
from modelkit.experiments.study.store import Store, StoredRun, export, measure

__all__ = [
    "Cell", "Measured", "PaperFigure", "Status", "Step", "Store", "StoredRun", "Study", "Verdict", "cells", "estimate",
    "export", "folder_of", "load_study", "measure", "report_study", "run_study", "shipped_studies", "status",
    "verdicts",
]  # fmt: skip
