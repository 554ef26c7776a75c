"""HTML reports from result and certificate files: one self-contained page, the same bytes for the same files.

It runs nothing: values are the judge's, sentences come from
``modelkit.reporting.evidence``, figures from ``modelkit.reporting.charts``, and the templates lie in ``reports/``.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from modelkit.arguments import checked_arguments
from modelkit.certificate import Certificate
from modelkit.errors import ModelkitError, UsageError
from modelkit.formulation.formulation import Formulation
from modelkit.instance import Instance
from modelkit.io import load_claim, write_text
from modelkit.io.lookup import Instances
from modelkit.reporting.comparison import Comparison
from modelkit.reporting.evidence import Case, ReadFile, by_instance
from modelkit.reporting.gathering import cases
from modelkit.reporting.goals import Formulations
from modelkit.reporting.observation import Observation
from modelkit.reporting.pages import instance_page, many_page
from modelkit.reporting.templates import asset, environment, markup, style_of_reports
from modelkit.result import Result
from modelkit.runtime.resources import VERSION
from modelkit.solving.bound import CertifiedBound

#: What can be reported: what the library returns, or files and folders of them.
Reportable = Result | Certificate | CertifiedBound | str | os.PathLike[str]

#: Files that are taken from a folder.
_PATTERNS = ("*.result.json", "*.result.json.gz", "*.certificate.json", "*.certificate.json.gz")


@checked_arguments
def report(
    results: Reportable | Comparison | Iterable[Reportable],
    path: str | os.PathLike[str] = "report.html",
    *,
    instances: Iterable[Instance] = (),
    formulations: Iterable[str | Formulation] = (),
    title: str | None = None,
    observation: Observation | None = None,
) -> Path | None:
    """Write a report: on one instance, or a summary when the results are about several.

    Parameters
    ----------
    results
        Results, certificates, paths of such files or of folders that hold them, or a comparison.
    path
        File to write; ``-`` is standard output.
    instances
        The instances, where they are at hand. Otherwise they are looked for by their hash beside the
        files; without them schedules cannot be replayed, and the page says so.
    formulations
        Formulations, names or files of variants among the results that lie in no folder where modelkit finds them:
        their rules and objectives judge the schedules. Without, the page says what was not checked.
    title
        Of the page.
    observation
        What a log shows of the server; the page on its instance leads with it.

    Returns
    -------
    Path or None
        The file written, None for standard output.

    Raises
    ------
    UsageError
        There is nothing to report, or a file cannot be read or written.
    InputError
        A file is no result and no certificate.
    """
    if isinstance(results, Comparison):
        return report_comparison(results, path, title=title)
    claims, folders, unread = _find_claims(results)
    found = cases(claims, Instances(folders, instances), Formulations(formulations))
    if observation is not None:
        told = observation.run.instance.sha256
        found = [replace(case, observation=observation) if case.stamp.sha256 == told else case for case in found]
    return write_text(path, page(found, title=title, unread=unread))


def report_comparison(comparison: Comparison, path: str | os.PathLike[str], *, title: str | None = None) -> Path | None:
    """Write the report of a comparison; on several instances with a page for each in its folder, linked."""
    links = {}
    stems = {case.stamp.sha256: stem for case, stem in zip(comparison.cases, comparison.stems, strict=True)}
    if len(stems) > 1:
        start = "." if os.fspath(path) == "-" else Path(path).parent
        for of_one in by_instance(comparison.cases):
            file = comparison.folder / f"{stems[of_one[0].stamp.sha256]}.html"
            write_text(file, page(of_one))
            links[of_one[0].stamp.sha256] = quote(os.path.relpath(file, start).replace(os.sep, "/"))
    return write_text(path, page(comparison.cases, title=title, links=links))


def cases_of(results: Reportable | Iterable[Reportable], instances: Iterable[Instance] = ()) -> list[Case]:
    """What results and certificates say together; those made in this process bring their instances with them."""
    claims, folders, _ = _find_claims(results)
    own = [claim.content.instance.instance for claim in claims]
    known = [*instances, *(instance for instance in own if isinstance(instance, Instance))]
    return cases(claims, Instances(folders, known), Formulations(()))


def _find_claims(
    results: Reportable | Iterable[Reportable],
) -> tuple[list[ReadFile], list[Path], list[str]]:
    """The claims, the folders that they were read from, and what could not be read in folders."""
    if isinstance(results, Result | Certificate | CertifiedBound | str | os.PathLike):
        results = [results]
    claims: list[ReadFile] = []
    folders: list[Path] = []
    unread: list[str] = []
    for item in results:
        if isinstance(item, CertifiedBound):
            claims.append(ReadFile(item.result))
        elif isinstance(item, Result | Certificate):
            claims.append(ReadFile(item))
        elif os.path.isdir(item):
            folders.append(Path(item))
            for file in sorted({file for pattern in _PATTERNS for file in Path(item).glob(pattern)}):
                try:
                    claims.append(ReadFile(load_claim(file), file.name))
                except ModelkitError as error:
                    unread.append(f"Left out: {str(error).replace(str(file), file.name, 1)}")
        else:
            claims.append(ReadFile(load_claim(item), os.path.basename(os.fspath(item))))
            folders.append(Path(item).parent)
    if not claims:
        where = f"in {', '.join(map(str, folders))}" if folders else "is given"
        raise UsageError("\n  ".join([f"there is nothing to report: no result and no certificate {where}", *unread]))
    return claims, folders, unread


def page(
    found: Sequence[Case],
    *,
    title: str | None = None,
    links: dict[str, str] | None = None,
    unread: Sequence[str] = (),
) -> str:
    """The HTML of a report on these cases.

    Parameters
    ----------
    links
        By instance hash, the address of the page on that instance alone.
    unread
        Sentences on files that could not be read.
    """
    if len(by_instance(found)) == 1:
        template, content = "instance.html.j2", instance_page(found)
    else:
        template, content = "many.html.j2", many_page(found, links or {})
    first = content["problems"][0]
    first["findings"] = [*first["findings"], *unread]
    return rendered(template, content, title)


def rendered(template: str, content: dict[str, Any], title: str | None = None) -> str:
    """The HTML of a page, under a title of one's own."""
    if title is not None:
        content = {**content, "title": title, "kicker": f"{title} · {content['kicker']}"}
    style, script = style_of_reports(), asset("report.js")
    return str(
        environment()
        .get_template(template)
        .render(
            version=VERSION,
            style=markup(style),
            style_hash=markup(_hash(style)),
            script=markup(script),
            script_hash=markup(_hash(script)),
            **content,
        )
    )


def _hash(text: str) -> str:
    """Source expression of a Content-Security-Policy that allows exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
