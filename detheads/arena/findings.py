"""Sections of an arena's report: its claims, and the errors of its heads by kind."""

from collections.abc import Sequence

from detheads.arena.claims import TITLES, WORTH, Claim
from detheads.arena.records import Row
from detheads.report.errors import WRONG
from detheads.report.findings import MEANING
from detheads.report.sections import Column, Section, Table, Value

RULE = (
    "Each head trained beside itself with one idea turned off, with the same seeds. Gains are shares of what the "
    "control reaches, positive where the idea is better; the interval is Student's t over the paired differences of "
    "the seeds. A claim stands when the whole interval lies above 0 (or above the loss that the claim allows), falls "
    f"when it lies below a gain of {WORTH:.0%} (or below that loss), and is undecided otherwise."
)


def claims_section(claims: Sequence[Claim]) -> Section:
    """A row and two sentences a claim."""
    percent = "+.1%"
    columns = [
        Column("head", high_first=False),
        Column("idea", high_first=False),
        Column("verdict", high_first=False),
        Column("gain", percent, "mean of the paired differences, as a share of what the control reaches"),
        Column("±", percent.lstrip("+"), "sample standard deviation of these differences over the seeds"),
        Column("from", percent, "lower end of the 95 % interval"),
        Column("to", percent, "upper end"),
        Column("metric", high_first=False),
        Column("with", ".3f"),
        Column("without", ".3f"),
        Column("seeds", "d"),
        Column("turned off by", high_first=False),
    ]
    rows: list[list[Value]] = [
        [
            claim.control.head,
            claim.control.idea,
            claim.verdict,
            claim.gain,
            claim.spread,
            claim.low,
            claim.high,
            TITLES.get(claim.control.metric, claim.control.metric),
            claim.mean(with_idea=True),
            claim.mean(with_idea=False),
            claim.seeds,
            claim.control.turned_off,
        ]
        for claim in claims
    ]
    tables = [Table(columns, rows, sorted_by=0), *_by_domain(claims)]
    told = [claim.told() for claim in claims]
    return Section("Ideas against their controls", tables, sentences=[RULE], remarks=told)


def _by_domain(claims: Sequence[Claim]) -> list[Table]:
    """Gain and verdict on each domain by itself, where there are several."""
    domains = list(claims[0].alone)
    if not domains:
        return []
    columns = [Column("head"), Column("idea"), *(Column(domain) for domain in domains)]
    rows: list[list[Value]] = [
        [claim.control.head, claim.control.idea, *(_outcome(claim.alone[domain]) for domain in domains)]
        for claim in claims
    ]
    return [Table(columns, rows)]


def _outcome(claim: Claim) -> str:
    return claim.verdict if claim.gain is None else f"{claim.gain:+.1%}, {claim.verdict}"


def errors_section(rows: Sequence[Row]) -> list[Section]:
    """What the repair of each kind of error would add to AP50, a row a head; none where no head has been looked at."""
    measured = [row for row in rows if row.errors]
    if not measured:
        return []
    columns = [
        Column("head", high_first=False),
        *(Column(kind.label, ".3f", MEANING[kind]) for kind in WRONG),
    ]
    cells: list[list[Value]] = [[row.head, *(row.errors.get(kind.label) for kind in WRONG)] for row in measured]
    sentence = "What the repair of each kind of error alone would add to AP50 (TIDE, Bolya et al. 2020)."
    return [Section("Errors by kind", [Table(columns, cells)], sentences=[sentence])]
