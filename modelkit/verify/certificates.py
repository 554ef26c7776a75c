"""Verification of certificates: the bound is recomputed from the proof and the instance alone."""

from __future__ import annotations

from fractions import Fraction

from modelkit.arguments import checked_arguments
from modelkit.certificate import KINDS, PROOFS, Certificate
from modelkit.errors import InputError
from modelkit.instance import Instance, InstanceStamp
from modelkit.io import load
from modelkit.judge.slo import slo_words
from modelkit.text import count, join_words, metric_noun, unit_of
from modelkit.verify.consistency import shown
from modelkit.verify.exact_bounds import recomputed_bound
from modelkit.verify.findings import Findings, Verification


@checked_arguments
def verify_certificate(certificate: Certificate, instance: Instance) -> Verification:
    """Recompute the bound of ``certificate`` from its proof and the instance alone, exactly."""
    instance = load(instance)
    found = Findings(certificate_faults(certificate, instance))
    if found.faults:
        return found.conclusion()
    found.confirmed["instance"] = f"instance {instance.sha256[:16]}..."
    found.confirmed["certificate bound"] = f"{claim(certificate)}: recomputed exactly from the {certificate.proof}"
    if certificate.seconds is not None:
        found.unconfirmed["seconds"] = "seconds: how long the proof took to find cannot be checked from the file"
    return found.conclusion()


def claim(certificate: Certificate) -> str:
    """What a certificate says of every schedule."""
    if certificate.goodput is not None:
        n = certificate.instance.requests
        levels = f" ({slo_words(certificate.goodput.slo)})" if certificate.goodput.slo is not None else ""
        return f"at most {shown(n - certificate.value)} of {n} requests keep their service levels{levels}"
    noun, unit = metric_noun(certificate.metric), unit_of(certificate.metric)
    return f"no schedule has a {noun} below {shown(certificate.value)} {unit}"


def certificate_faults(certificate: Certificate, instance: Instance) -> list[str]:
    """What is wrong with a certificate; the bound is recomputed exactly from its proof alone."""
    if certificate.instance.sha256 != instance.sha256:
        return ["the certificate is about another instance"]
    faults = stamp_faults(certificate.instance, instance, "the certificate says")
    kind = KINDS[certificate.kind]
    if certificate.objective not in (None, *kind.objectives):
        said, known = certificate.objective, join_words([*kind.objectives])
        faults.append(f"the certificate says it bounds {said!r}; its kind, {certificate.kind}, bounds {known}")
    for proof in PROOFS:
        if proof != kind.field and getattr(certificate, proof) is not None:
            faults.append(f"the certificate has {proof}, which prove nothing in one of kind {certificate.kind}")
    if faults:
        return faults
    try:
        bound = recomputed_bound(certificate, instance)
    except InputError as error:
        return [str(fault) for fault in error.faults]
    stated = Fraction(certificate.bound.numerator, certificate.bound.denominator)
    if bound < stated if kind.at_most else bound != stated:
        said, gives = (f"{float(number):.10g}" for number in (stated, bound))
        if said == gives:
            said, gives = str(stated), str(bound)
        return [f"the certificate says {said}; from its {certificate.proof} follows {gives}"]
    return []


def stamp_faults(stamp: InstanceStamp, instance: Instance, who_says: str) -> list[str]:
    """What a stamp with the right hash says wrongly of its instance."""
    known = InstanceStamp.of(instance)
    faults = []
    if stamp.requests != known.requests:
        faults.append(f"{who_says} {count(stamp.requests, 'request')}, the instance has {known.requests}")
    if stamp.name != known.name:
        faults.append(f"{who_says} the instance's name is {stamp.name!r}, it is {known.name!r}")
    if stamp.family != known.family:
        faults.append(f"{who_says} the instance is of family {stamp.family!r}, it is of {known.family!r}")
    return faults
