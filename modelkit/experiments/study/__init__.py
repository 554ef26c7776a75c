"""Studies: grids of runs from a TOML file, resumable, on this machine or a cluster."""

from modelkit.experiments.study.axes import axes_of, swept_of
from modelkit.experiments.study.estimate import Estimate, estimate
from modelkit.experiments.study.grid import Cell, cells
from modelkit.experiments.study.new import new_study
from modelkit.experiments.study.page import report_study
from modelkit.experiments.study.paper_figures import Measured, PaperFigure, Verdict, verdicts
from modelkit.experiments.study.plan import Study, load_study, shipped_studies
from modelkit.experiments.study.running import Status, Step, folder_of, run_study, status
from modelkit.experiments.study.store import Store, StoredRun, export, measure

__all__ = [
    "Cell", "Estimate", "Measured", "PaperFigure", "Status", "Step", "Store", "StoredRun", "Study", "Verdict",
    "axes_of", "cells", "estimate", "export", "folder_of", "load_study", "measure", "new_study", "report_study",
    "run_study", "shipped_studies", "status", "swept_of", "verdicts",
]  # fmt: skip
