"""What a comparison found, and how a notebook shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelkit.reporting.evidence import Case, by_instance
from modelkit.reporting.inline import inline_cases
from modelkit.result import Result
from modelkit.text import count


@dataclass(frozen=True)
class Comparison:
    """What was compared, where its files lie, and what each instance's runs say.

    Parameters
    ----------
    folder
        Holds the instances and a result file for each run.
    results
        In the order of the plan.
    cases
        By instance, in the order given, and by goal: results of different goals are not compared.
    stems
        Of each case, the beginning of the names of its instance's files.
    left_out
        What was asked for and does not fit an instance, in words.
    interrupted
        Whether Ctrl-C came before all runs were done.
    """

    folder: Path
    results: tuple[Result, ...]
    cases: tuple[Case, ...]
    stems: tuple[str, ...]
    left_out: tuple[str, ...]
    interrupted: bool = False

    def __repr__(self) -> str:
        said = f"{count(len(self.results), 'result')} of {count(len(by_instance(self.cases)), 'instance')}"
        return f"Comparison({said}, in {str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """For notebooks: what was found, the runs and the distances, as on the page."""
        return inline_cases(self.cases)
