"""Mathematics as text for terminals, as LaTeX and as HTML."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from modelkit.authoring.show import Family, Mathematics, Named, mathematics
from modelkit.authoring.show.lifting import Range, Side, Sym, SymLeaf, Term
from modelkit.authoring.show.styles import Html, Latex, Text, latex_text
from modelkit.formulation.formulation import Formulation

#: Columns of a terminal.
WIDTH = 79

Coefficient = dict[tuple[SymLeaf, ...], float]


def shown(formulation: Formulation, name: str, given: Mapping[str, Any], kind: str) -> str:
    """The mathematics of a formulation as ``text``, ``latex`` or ``html``; to be applied where the formulation lives.

    Raises
    ------
    UsageError, FormulationError
        As `mathematics`.
    """
    write = {"text": as_text, "latex": as_latex, "html": as_html}[kind]
    return write(mathematics(name, given))


def digits(number: float) -> str:
    """A number in as few digits as say exactly what it is."""
    short = f"{number:g}"
    if float(short) == number:
        return short
    return f"{number:.0f}" if float(number).is_integer() else repr(float(number))


@dataclass(frozen=True)
class Writer:
    """Writes the formulas of one formulation in one style."""

    mathematics: Mathematics
    style: Text

    def formula(self, family: Family) -> str | None:
        """The objective or the constraint; None when the rows had no formula."""
        if family.left is None or family.right is None:
            return None
        if family.relation in ("min", "max"):
            return self.style.relations[family.relation] + self.side(family.left, family)
        left, right = _tidy(family.left, family.right)
        relation = family.relation
        if not left.terms and right.terms:
            left, right = right, left
            relation = {"≤": "≥"}.get(relation, relation)
        return self.side(left, family) + self.style.relations[relation] + self.side(right, family)

    def domain(self, letters: tuple[str, ...], over: tuple[tuple[str, int], ...]) -> str:
        """``i ∈ REQUESTS, k ∈ STAGES``."""
        parts, done = [], 0
        for name, dimension in over:
            mine = [self.style.letter(letter) for letter in letters[done : done + dimension]]
            done += dimension
            inside = mine[0] if dimension == 1 else f"({', '.join(mine)})"
            parts.append(f"{inside}{self.style.element}{self.style.name(name, upright=True)}")
        return ", ".join(parts)

    def bounds(self, entry: Named) -> str:
        """``0 ≤ held ≤ kv_capacity``."""
        le = self.style.relations["≤"]
        low = "" if entry.lower is None else self.side(entry.lower, entry) + le
        high = "" if entry.upper is None else le + self.side(entry.upper, entry)
        index = ", ".join(map(self.style.letter, entry.letters))
        return f"{low}{self.style.name(entry.name, index)}{high}" if low or high else ""

    def side(self, side: Side, family: Family | Named) -> str:
        """Terms and constant, with the letters of what they belong to."""
        parts: list[tuple[bool, str]] = []
        for term in side.terms:
            negative = all(c < 0 for c in term.coefficient.values())
            parts.append((negative, self.term(_negate(term) if negative else term, family)))
        letters = {f"c{j}": letter for j, letter in enumerate(family.letters)}
        for leaves, c in sorted(side.constant.items(), key=lambda item: item[1] < 0):
            parts.append((c < 0, self.product(leaves, abs(c), letters)))
        if not parts:
            return "0"
        text = (self.style.minus if parts[0][0] else "") + parts[0][1]
        for negative, part in parts[1:]:
            text += f" {self.style.minus if negative else '+'} {part}"
        return text

    def term(self, term: Term, family: Family | Named) -> str:
        """``∑ over coefficient variable[index]``."""
        letters = {f"c{j}": letter for j, letter in enumerate(family.letters)}
        own = next(v for v in self.mathematics.variables if v.name == term.variable)
        for q, sym in enumerate(term.index):
            letter = own.letters[q]
            while sym.base == f"p{q}" and letter in letters.values():
                letter += "′"
            letters[f"p{q}"] = letter if sym.base == f"p{q}" else self.symbol(sym, letters)
        index = ", ".join(self.symbol(sym, letters) for sym in term.index)
        factor = self.coefficient(term.coefficient, letters)
        body = (factor + self.style.times if factor else "") + self.style.name(term.variable, index)
        return body if term.range is None else self.style.sum(self.range(term.range, own, letters), body)

    def range(self, over: Range, variable: Named, letters: dict[str, str]) -> str:
        bound = [self.style.letter(letters[f"p{q}"]) for q in over.positions]
        together = bound[0] if len(bound) == 1 else f"({', '.join(bound)})"
        if over.kind == "set":
            key = ", ".join(self.symbol(sym, letters) for sym in over.key)
            return f"{together}{self.style.element}{self.style.name(over.name, key, upright=True)}"
        if over.kind == "picked":
            return f"some {', '.join(bound)}"
        parts, done = [], 0
        for name, dimension in variable.over:
            positions = range(done, done + dimension)
            done += dimension
            if any(q in over.positions for q in positions):
                mine = [self.style.letter(letters[f"p{q}"]) for q in positions]
                inside = mine[0] if dimension == 1 else f"({', '.join(mine)})"
                free = [letter for q, letter in zip(positions, mine, strict=True) if q in over.positions]
                lead = "" if len(free) == len(mine) else f"{', '.join(free)}: "
                parts.append(f"{lead}{inside}{self.style.element}{self.style.name(name, upright=True)}")
        if over.apart >= 0:
            one, other = (self.style.letter(letters[at]) for at in (f"p{over.limited}", f"c{over.apart}"))
            parts.append(one + self.style.apart + other)
        elif over.before >= 0:
            one, other = (self.style.letter(letters[at]) for at in (f"p{over.limited}", f"c{over.before}"))
            parts.append(self.style.before(one, other, self.style.name(over.name, upright=True)))
        elif over.limited >= 0:
            le = self.style.relations["≤"]
            limited = self.style.letter(letters[f"p{over.limited}"])
            low = self.symbol(over.lower, letters) + le if over.lower else ""
            parts.append(low + limited + (le + self.symbol(over.upper, letters) if over.upper else ""))
        return ", ".join(parts)

    def symbol(self, sym: Sym, letters: Mapping[str, str]) -> str:
        """``t - 1 - output[i]``."""
        base = letters.get(sym.base)
        text = self.style.letter(base) if base is not None else self.style.words(sym.base)
        if sym.sign:
            sign = "+" if sym.sign > 0 else self.style.minus
            text += f" {sign} {self.style.name(sym.parameter, self.style.letter(letters[sym.at]))}"
        if sym.offset:
            text += f" {'+' if sym.offset > 0 else self.style.minus} {abs(sym.offset)}"
        return text

    def coefficient(self, how: Coefficient, letters: Mapping[str, str]) -> str:
        """Nothing for 1; in brackets when it is a sum."""
        ordered = sorted(how.items(), key=lambda item: (item[1] < 0, not item[0]))
        if len(ordered) == 1:
            leaves, c = ordered[0]
            text = self.product(leaves, abs(c), letters)
            return ("" if c > 0 else self.style.minus) + ("" if text == "1" else text)
        common = next((x for x in ordered[0][0] if all(x in leaves for leaves, _ in ordered)), None)
        if common is not None:
            rest = {tuple(x for n, x in enumerate(leaves) if n != leaves.index(common)): c for leaves, c in ordered}
            return self.product((common,), 1, letters) + self.style.times + self.coefficient(rest, letters)
        text = ""
        for leaves, c in ordered:
            sign = "+" if c > 0 else self.style.minus
            text += (f" {sign} " if text else "" if c > 0 else sign) + self.product(leaves, abs(c), letters)
        return f"({text})"

    def product(self, leaves: tuple[SymLeaf, ...], number: float, letters: Mapping[str, str]) -> str:
        factors = [] if number == 1 and leaves else [digits(number)]
        for leaf in leaves:
            index = ", ".join(self.symbol(sym, letters) for sym in leaf.at)
            factors.append(self.style.name(leaf.name, index) if leaf.name else index)
        return self.style.times.join(factors)


def _negate(term: Term) -> Term:
    return replace(term, coefficient={leaves: -c for leaves, c in term.coefficient.items()})


def _tidy(left: Side, right: Side) -> tuple[Side, Side]:
    """Terms that are taken away move to the other side."""
    sides = []
    for one, other in ((left, right), (right, left)):
        kept = [t for t in one.terms if any(c > 0 for c in t.coefficient.values())]
        kept += [_negate(t) for t in other.terms if all(c < 0 for c in t.coefficient.values())]
        constant = {leaves: c for leaves, c in one.constant.items() if c > 0}
        for leaves, c in other.constant.items():
            if c < 0:
                constant[leaves] = constant.get(leaves, 0.0) - c
        sides.append(Side(tuple(kept), constant))
    return sides[0], sides[1]


#: What stands in place of a formula that does not give the built rows.
NOT_SHOWN = "not shown as one formula: none could be verified against the built rows; one of them is"


def withheld(family: Family) -> str:
    """What is said of a family without a formula."""
    return f"{NOT_SHOWN} {family.example}" if family.example else "not shown: the models looked at have no such row"


# --- whole formulations ------------------------------------------------------------------------


def head(mathematics: Mathematics) -> list[tuple[str, str]]:
    """What there is to say beside the formulas."""
    f = mathematics.formulation
    said = mathematics.claim.casefold().replace(" ", "-").startswith(f.claim)
    rows = [("claim", mathematics.claim if said else f"{f.claim}. {mathematics.claim}")]
    rows.append(("reference", mathematics.reference or f.reference))
    rows.append(("verified", "each formula gives the rows of the models looked at; variables that are not there are 0"))
    for p in f.parameters:
        default = "" if p.default is None else f", default {p.default!r}"
        rows.append((f"--param {p.name}", f"{p.doc}: {p.allowed}{default}"))
    return rows


def as_text(mathematics: Mathematics) -> str:
    """For a terminal of 80 columns."""
    writer = Writer(mathematics, Text())
    f = mathematics.formulation
    lines = [*textwrap.wrap(f"{f.name}: {f.summary}", WIDTH), ""]
    for title, entries in (
        ("Sets", mathematics.sets), ("Parameters", mathematics.parameters), ("Variables", mathematics.variables)
    ):  # fmt: skip
        lines.append(title)
        for entry in entries:
            name = writer.style.name(entry.name, ", ".join(entry.letters))
            parts = (entry.doc, entry.what, writer.bounds(entry), entry.note, writer.domain(entry.letters, entry.over))
            said = "; ".join(part for part in parts if part)
            lines += _hanging(f"  {name:<18} ", said)
        lines.append("")
    for title, families in (("Objective", (mathematics.objective,)), ("Constraints", mathematics.constraints)):
        lines.append(title)
        for family in families:
            lines += _hanging("  ", f"{family.name}: {family.doc}")
            formula = writer.formula(family)
            if formula is None:
                lines += _hanging("      ", withheld(family)[:600])
            else:
                lines += _hanging("      ", formula)
            if family.over:
                some = f", {family.partial}" if family.partial else ""
                lines += _hanging("      ", f"{writer.style.all_}{writer.domain(family.letters, family.over)}{some}")
        lines.append("")
    for title, text in head(mathematics):
        lines += _hanging(f"{title}: ", text)
    return "\n".join(lines) + "\n"


def _hanging(lead: str, text: str) -> list[str]:
    indent = " " * min(len(lead), 21) if lead.strip() else lead + "  "
    lines = textwrap.wrap(text, WIDTH, initial_indent=lead, subsequent_indent=indent, break_long_words=False)
    return [line.replace("\u00a0", " ") for line in lines] or [lead]


def as_latex(mathematics: Mathematics) -> str:
    """A fragment for a document that uses amsmath."""
    writer = Writer(mathematics, Latex())
    f = mathematics.formulation
    lines = [rf"\subsection*{{{latex_text(f.name)}: {latex_text(f.summary)}}}"]
    for title, entries in (
        ("Sets", mathematics.sets), ("Parameters", mathematics.parameters), ("Variables", mathematics.variables)
    ):  # fmt: skip
        if not entries:
            continue
        lines += [rf"\paragraph{{{title}}}", r"\begin{description}"]
        for entry in entries:
            name = writer.style.name(entry.name, ", ".join(entry.letters), upright=title == "Sets")
            domain = writer.domain(entry.letters, entry.over)
            said = latex_text("; ".join(part for part in (entry.doc, entry.what, entry.note) if part))
            lines.append(
                rf"  \item[${name}$] {said}" + "".join(f", ${m}$" for m in (writer.bounds(entry), domain) if m)
            )
        lines.append(r"\end{description}")
    for family in (mathematics.objective, *mathematics.constraints):
        formula = writer.formula(family)
        lines.append(rf"\paragraph{{{latex_text(family.name)}}} {latex_text(family.doc)}")
        if formula is None:
            lines.append(f"{latex_text(NOT_SHOWN)} \\texttt{{{latex_text(family.example[:300])}}}.")
            continue
        domain = writer.domain(family.letters, family.over)
        some = rf"\text{{, {latex_text(family.partial)}}}" if family.partial else ""
        lines.append(r"\[" + formula + (rf" \qquad {writer.style.all_}{domain}{some}" if domain else "") + r"\]")
    for title, text in head(mathematics):
        lines.append(rf"\paragraph{{{latex_text(title)}}} {latex_text(text)}")
    return "\n".join(lines) + "\n"


def html_fragment(mathematics: Mathematics, *, level: int = 1) -> str:
    """For a page: headings from ``level`` on."""
    writer = Writer(mathematics, Html())
    f = mathematics.formulation
    out = [f"<h{level}>{html.escape(f.name)}</h{level}>", f"<p>{html.escape(f.summary)}</p>"]
    for title, entries in (
        ("Sets", mathematics.sets), ("Parameters", mathematics.parameters), ("Variables", mathematics.variables)
    ):  # fmt: skip
        if not entries:
            continue
        out.append(f"<h{level + 1}>{title}</h{level + 1}>\n<table>")
        for entry in entries:
            name = writer.style.name(
                entry.name, ", ".join(map(writer.style.letter, entry.letters)), upright=title == "Sets"
            )
            said = html.escape("; ".join(part for part in (entry.doc, entry.what, entry.note) if part))
            where = "; ".join(part for part in (writer.bounds(entry), writer.domain(entry.letters, entry.over)) if part)
            out.append(f"<tr><td>{name}</td><td>{said}</td><td>{where}</td></tr>")
        out.append("</table>")
    for title, families in (("Objective", (mathematics.objective,)), ("Constraints", mathematics.constraints)):
        out.append(f"<h{level + 1}>{title}</h{level + 1}>")
        for family in families:
            formula = writer.formula(family)
            shown = formula or f"{html.escape(NOT_SHOWN)} <code>{html.escape(family.example[:300])}</code>"
            domain = writer.domain(family.letters, family.over)
            domain += f", {html.escape(family.partial)}" if domain and family.partial else ""
            out.append(f"<p><b>{html.escape(family.name)}</b>: {html.escape(family.doc)}</p>")
            quantified = f' <span class="for-all">{writer.style.all_}{domain}</span>' if domain else ""
            out.append(f'<p class="formula">{shown}{quantified}</p>')
    out.append("<dl>")
    for title, text in head(mathematics):
        out.append(f"<dt>{html.escape(title)}</dt><dd>{html.escape(text)}</dd>")
    out.append("</dl>")
    return "\n".join(out) + "\n"


_STYLE = """body{font-family:Georgia,serif;max-width:52em;margin:2em auto;padding:0 1em;line-height:1.5}
td{padding:.1em .8em .1em 0;vertical-align:top}.formula{margin-left:2em;font-size:1.1em}.for-all{margin-left:2em}
.sum{font-size:1.15em}dt{font-weight:bold}"""


def as_html(mathematics: Mathematics) -> str:
    """A page of its own."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(mathematics.formulation.name)}</title><style>{_STYLE}</style></head><body>\n"
        f"{html_fragment(mathematics)}</body></html>\n"
    )
