"""Draws the figures: horizontal bars with the quartiles, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape

from benchmarks.pairs import Comparison, Spread
from benchmarks.rows import ROWS

__all__ = ["chart"]

WIDTH, LABELS, VALUES, EDGE = 880, 346, 100, 24
LINE, TITLE, GAP = 27, 52, 26
THICK = 15
MOST_OF_BAR = 2.0
"""Times of what must be reached, beyond which the bar of a row does not grow."""

STYLE = """
  .page { fill: #ffffff; stroke: #d8dee4 } text { fill: #24292f; font: 13px system-ui, sans-serif }
  .title { font-weight: 600; font-size: 15px } .note { fill: #57606a; font-size: 12px }
  .value { font-variant-numeric: tabular-nums } .axis { stroke: #afb8c1 }
  .mark { stroke: #24292f; stroke-dasharray: 3 3 }
  .ours { fill: #1f6feb } .bare { fill: #6e7781 } .peer { fill: #b6bec7 }
  .reached { fill: #2da44e } .missed { fill: #d4803a } .spread { stroke: #24292f; opacity: .55 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; stroke: #30363d } text { fill: #e6edf3 } .note { fill: #9198a1 }
    .axis { stroke: #656c76 } .ours { fill: #4c94ff } .bare { fill: #9198a1 }
    .peer { fill: #4d5560 } .reached { fill: #3fb950 } .missed { fill: #db8f4a }
    .spread, .mark { stroke: #ffffff }
  }
"""


@dataclass(frozen=True)
class Stripe:
    """One bar of a panel."""

    label: str
    spread: Spread
    value: str
    kind: str


@dataclass(frozen=True)
class Panel:
    """Bars that share a scale."""

    title: str
    note: str
    stripes: list[Stripe]
    mark: float | None = None
    """Where a line stands across all bars."""

    @property
    def height(self) -> int:
        return TITLE + LINE * len(self.stripes) + GAP


def chart(rows: list[Comparison]) -> str:
    """Return the chart as SVG."""
    found = {row.key: row for row in rows if not row.problem}
    panels = [panel for panel in _panels(found) if panel.stripes]
    height = sum(panel.height for panel in panels) + GAP
    parts: list[str] = []
    top = GAP
    for panel in panels:
        parts.extend(_drawn(panel, top))
        top += panel.height
    title = "Headgate beside bare prototypes and peers"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{title}">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n"
        f'<rect class="page" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _panels(found: dict[str, Comparison]) -> Iterator[Panel]:
    ours = [("sync", "Headgate"), ("threads", "Headgate, client with threads")]
    ours.append(("async", "Headgate, async def handler"))
    throughput = [*_beside(found, ["sync"]), *_ours(found, ours)]
    throughput += _beside(found, ["nats", "zmq", "grpc"])
    note = "256 in flight from one client; more is better"
    yield Panel("Requests a second", note, sorted(throughput, key=_median, reverse=True))
    latency = [*_beside(found, ["p50"]), *_ours(found, [("p50", "Headgate")])]
    latency += _beside(found, ["rpyc-p50", "zmq-p50", "nats-p50", "pyro-p50", "grpc-p50"])
    note = "one request at a time, median; less is better"
    yield Panel("Round trip", note, sorted(latency, key=_median))
    note = f"1 is reached; bars end at {MOST_OF_BAR:g}"
    yield Panel("Of what must be reached", note, list(_standings(found)), mark=1.0)


def _median(stripe: Stripe) -> float:
    return stripe.spread.median


def _ours(found: dict[str, Comparison], named: list[tuple[str, str]]) -> Iterator[Stripe]:
    for key, name in named:
        if key in found:
            yield _figure(key, name, found[key].ours, "ours")


def _beside(found: dict[str, Comparison], keys: list[str]) -> Iterator[Stripe]:
    for key in keys:
        if key in found:
            name = ROWS[key].beside_name.replace("`", "")
            kind = "bare" if name.startswith("bare") else "peer"
            yield _figure(key, name, found[key].beside, kind)


def _figure(key: str, name: str, figures: list[float], kind: str) -> Stripe:
    spread = Spread.of(figures)
    return Stripe(name, spread, ROWS[key].unit.text(spread.median), kind)


def _standings(found: dict[str, Comparison]) -> Iterator[Stripe]:
    """How each row stands to its bar, turned so that more is better."""
    for key, row in ((key, ROWS[key]) for key in found):
        if row.bar is None:
            continue
        judged, limit = found[key].judged, row.bar.limit
        values = [judged.lower, judged.median, judged.upper]
        turned = [v / limit if row.bar.at_least else limit / v for v in values]
        kind = "reached" if row.bar.reached(judged.median) else "missed"
        several = [other.work for other in ROWS.values()].count(row.work) > 1
        name = f"{row.work} / {row.beside_name}" if several else row.work
        yield Stripe(name.replace("`", ""), Spread(*sorted(turned)), f"{turned[1]:.2f}", kind)


def _drawn(panel: Panel, top: int) -> Iterator[str]:
    room = WIDTH - LABELS - VALUES - EDGE
    largest = max(stripe.spread.upper for stripe in panel.stripes)
    if panel.mark is not None:
        largest = MOST_OF_BAR
    yield f'<text class="title" x="{EDGE}" y="{top + 16}">{escape(panel.title)}</text>'
    yield f'<text class="note" x="{EDGE}" y="{top + 34}">{escape(panel.note)}</text>'

    def x(value: float) -> float:
        return LABELS + room * min(value, largest) / largest

    start, end = top + TITLE - 6, top + TITLE + LINE * len(panel.stripes) - 4
    for number, stripe in enumerate(panel.stripes):
        yield from _stripe(stripe, x, top + TITLE + LINE * number)
    yield f'<path class="axis" d="M{LABELS} {start}V{end}"/>'
    if panel.mark is not None:
        yield f'<path class="mark" d="M{x(panel.mark):.1f} {start}V{end}"/>'


def _stripe(stripe: Stripe, x: Callable[[float], float], top: int) -> Iterator[str]:
    spread, middle = stripe.spread, top + THICK / 2
    width = max(2.0, x(spread.median) - LABELS)
    label, value = escape(stripe.label), escape(stripe.value)
    yield f'<text x="{LABELS - 12}" y="{top + 12}" text-anchor="end">{label}</text>'
    yield (
        f'<rect class="{stripe.kind}" x="{LABELS}" y="{top}" width="{width:.1f}" '
        f'height="{THICK}" rx="2"/>'
    )
    if x(spread.upper) - x(spread.lower) > 1:
        yield f'<path class="spread" d="M{x(spread.lower):.1f} {middle}H{x(spread.upper):.1f}"/>'
    place = max(x(spread.median), x(spread.upper)) + 9
    yield f'<text class="value" x="{place:.1f}" y="{top + 12}">{value}</text>'
