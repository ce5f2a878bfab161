"""A model as a graph: circles are drawn, shaded ones are observed, the box repeats for every row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ppl_gen.html.markup import Markup, folded, table, tag
from ppl_gen.html.wording import several, shortened

if TYPE_CHECKING:
    from ppl_gen.backends.numpyro_relations import Site
    from ppl_gen.result import Fit

PLATE = "obs"  # the one over rows, in every model
ACROSS = 5  # sites side by side
HEIGHT, GAP, ASIDE, PAD, LETTER = (
    44.0,
    40.0,
    24.0,
    22.0,
    7.2,
)  # of a site; between lines, sites; in the box; of a letter
WORDS = {"latent": "drawn", "observed": "observed", "factor": "factor", "parameters": "trained arrays"}


class Spot(NamedTuple):
    """Where a site stands: its centre, and its half width and half height."""

    x: float
    y: float
    rx: float
    ry: float


def sites_of(fit: Fit) -> list[Site]:
    """The sites of the fit's model; of a pair in Pyro those of its twin, which is the same model."""
    from ppl_gen.backends.numpyro_relations import relations

    pair = fit.family.build("numpyro", fit.schema, len(fit.train))
    return relations(pair, fit.train.take(slice(0, 3)).view("numpyro"))


def graph(fit: Fit) -> Markup:
    """The picture, what its signs mean, and the same as a table."""
    sites = sites_of(fit)
    what = several(len(fit.train), fit.train.unit)
    legend = (
        "Circles are drawn from a distribution, the shaded one is the data. Rounded boxes are arrays that training "
        f"finds, such as the weights of a network. What is in the large box is repeated for each of the {what}. An "
        "arrow says that the site at its head depends on that at its foot"
    )
    legend += "; a loop, that a time step depends on the one before." if _has_loop(sites) else "."
    if any(site.kind == "factor" for site in sites):
        legend += " Squares are factors: log densities that are added as they are."
    drawn = tag("div", draw(sites, f"{what}"), class_="scroll graph", role="group", tabindex="0",
                aria_label="graph of the model")  # fmt: skip
    rows = [(site.name, WORDS[site.kind], site.distribution or several(len(site.holds), "array"),
             ", ".join(site.parents) or "nothing", ", ".join(site.plates) or "none") for site in sites]  # fmt: skip
    text = table(("site", "what it is", "distribution", "depends on", "plates"), rows, "The graph as a table")
    arrays = [f"{site.name}: {', '.join(site.holds)}" for site in sites if len(site.holds) > 1]
    more = [tag("p", "; ".join(arrays), ".", class_="note")] if arrays else []
    return tag("figure", drawn, tag("figcaption", legend)) + folded("The graph as a table", text, *more)


def _has_loop(sites: Sequence[Site]) -> bool:
    return any(site.name in site.parents for site in sites)


def draw(sites: Sequence[Site], unit: str) -> Markup:
    """The graph as SVG, in the colours of the page."""
    lines, local = _lines(sites)
    spots, width, height, top = _place(lines, local)
    shown: list[Markup] = []
    if local:
        shown.append(tag("rect", x=_px(8), y=_px(top), width=_px(width - 16), height=_px(height - top - 8), rx="10",
                         class_="plate"))  # fmt: skip
        shown.append(tag("text", f"{PLATE}: {unit}", x=_px(width - 20), y=_px(height - 18), class_="plate-name"))
    for site in sites:
        for parent in site.parents:
            if parent == site.name:
                shown.append(_loop(spots[site.name]))
            elif parent in spots:
                others = [spot for name, spot in spots.items() if name not in (parent, site.name)]
                shown.append(_arrow(spots[parent], spots[site.name], others))
    shown += [_node(site, spots[site.name]) for site in sites]
    told = "; ".join(
        f"{site.name} ({WORDS[site.kind]}{', ' + site.distribution if site.distribution else ''})"
        + (f" depends on {', '.join(site.parents)}" if site.parents else "")
        for site in sites
    )
    # A graph that is narrower than a phone is not blown up; a wider one scrolls in its box.
    style = f"width:{width:.0f}px;max-width:100%;min-width:{min(width, 520):.0f}px"
    return tag("svg", tag("title", f"Graph of the model: {told}."), *shown, role="img", style=style,
               viewBox=f"0 0 {width:.0f} {height:.0f}", aria_label=f"Graph of the model: {told}.")  # fmt: skip


def _lines(sites: Sequence[Site]) -> tuple[list[list[Site]], list[list[Site]]]:
    """Sites line by line from the top: first those outside the plate, then those inside, which the second list is."""
    depth: dict[str, int] = {}
    for site in sites:
        depth[site.name] = 1 + max((depth[p] for p in site.parents if p in depth and p != site.name), default=-1)

    def lines(chosen: list[Site]) -> list[list[Site]]:
        levels = sorted({depth[site.name] for site in chosen})
        each = [[site for site in chosen if depth[site.name] == level] for level in levels]
        return [part for line in each for part in _cut(line)]

    local = lines([site for site in sites if PLATE in site.plates])
    return [*lines([site for site in sites if PLATE not in site.plates]), *local], local


def _cut(line: list[Site]) -> list[list[Site]]:
    number = math.ceil(len(line) / ACROSS)
    size = math.ceil(len(line) / number)
    return [line[start : start + size] for start in range(0, len(line), size)]


def _place(lines: list[list[Site]], local: list[list[Site]]) -> tuple[dict[str, Spot], float, float, float]:
    """{site: where it is}, the width and height of all, and where the plate begins. A site stands near those that it
    depends on: a line of one below them, a longer one in their order."""
    full = [sum(2 * _half_width(site) for site in line) + ASIDE * (len(line) - 1) for line in lines]
    width = max(260.0, max(full) + 2 * PAD + 24)
    spots: dict[str, Spot] = {}
    y, top = 16.0, 0.0
    for place, line in enumerate(lines):
        if local and line is local[0]:
            top = y - 6 if place else 8.0
            y = top + PAD
        wanted = {site.name: _middle(site, spots, width / 2) for site in line}
        x = (width - full[place]) / 2
        if len(line) == 1:
            half = _half_width(line[0])
            x = min(max(wanted[line[0].name] - half, PAD), width - PAD - 2 * half)
        for site in sorted(line, key=lambda site: wanted[site.name]):
            half = _half_width(site)
            ry = 8.0 if site.kind == "factor" else HEIGHT / 2
            spots[site.name] = Spot(x + half, y + HEIGHT / 2, half, ry)
            x += 2 * half + ASIDE
        y += HEIGHT + GAP
    return spots, width, y - GAP + (PAD + 18 if local else 16), top


def _middle(site: Site, spots: dict[str, Spot], default: float) -> float:
    """Where the sites that it depends on stand, on average."""
    known = [spots[name].x for name in site.parents if name in spots]
    return sum(known) / len(known) if known else default


def _half_width(site: Site) -> float:
    letters = max(1.12 * len(shortened(site.name, 22)), 0.9 * len(_under(site)))  # the name is bold, and larger
    return max(28.0, LETTER * letters / 2 + 14)


def _under(site: Site) -> str:
    """The second line of a site."""
    return several(len(site.holds), "array") if site.kind == "parameters" else shortened(site.distribution, 22)


def _node(site: Site, spot: Spot) -> Markup:
    if site.kind == "factor":
        box = tag("rect", x=_px(spot.x - 8), y=_px(spot.y - 8), width="16", height="16", class_="factor")
        return Markup(box + tag("text", shortened(site.name, 22), x=_px(spot.x), y=_px(spot.y + 24), class_="name"))
    if site.kind == "parameters":
        shape = tag("rect", x=_px(spot.x - spot.rx), y=_px(spot.y - spot.ry), width=_px(2 * spot.rx),
                    height=_px(2 * spot.ry), rx="8", class_="arrays")  # fmt: skip
    else:
        shape = tag("ellipse", cx=_px(spot.x), cy=_px(spot.y), rx=_px(spot.rx), ry=_px(spot.ry), class_=site.kind)
    name = tag("text", shortened(site.name, 22), x=_px(spot.x), y=_px(spot.y - 2), class_="name")
    under = tag("text", _under(site), x=_px(spot.x), y=_px(spot.y + 12), class_="under")
    return Markup(shape + name + under)


def _arrow(foot: Spot, head: Spot, others: Sequence[Spot]) -> Markup:
    """From border to border, bent where it would cross other sites."""
    x, y = (foot.x + head.x) / 2, (foot.y + head.y) / 2
    bends = [(0.0, 0.0)] if foot.y != head.y else [(0.0, -60.0)]
    bends += [(side * size, 0.0) for size in (40.0, 80.0, 140.0) for side in (1, -1)]
    middle = (x + bends[0][0], y + bends[0][1])
    for across, down in bends:
        if not any(_crosses(foot, head, (x + across, y + down), other) for other in others):
            middle = (x + across, y + down)
            break
    x1, y1 = _border(foot, *middle)
    x2, y2 = _border(head, *middle, gap=2.0)
    line = tag("path", d=f"M{x1:.1f} {y1:.1f} Q{middle[0]:.1f} {middle[1]:.1f} {x2:.1f} {y2:.1f}", class_="edge")
    return Markup(line + _point(x2, y2, math.atan2(y2 - middle[1], x2 - middle[0])))


def _crosses(foot: Spot, head: Spot, middle: tuple[float, float], other: Spot) -> bool:
    """Whether the curve comes near another site."""
    for step in range(1, 20):
        t = step / 20
        a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t**2
        x, y = (a * p + b * q + c * r for p, q, r in zip(foot[:2], middle, head[:2], strict=True))
        if math.hypot((x - other.x) / (other.rx + 3), (y - other.y) / (other.ry + 3)) < 1:
            return True
    return False


def _border(spot: Spot, x: float, y: float, gap: float = 0.0) -> tuple[float, float]:
    """Where the line from the centre of a site to a point leaves it."""
    dx, dy = x - spot.x, y - spot.y
    size = math.hypot(dx / (spot.rx + gap), dy / (spot.ry + gap)) or 1.0
    return spot.x + dx / size, spot.y + dy / size


def _loop(spot: Spot) -> Markup:
    x, y = spot.x + spot.rx, spot.y
    line = tag("path", d=f"M{x - 5:.1f} {y - 12:.1f} C{x + 38:.1f} {y - 34:.1f} {x + 38:.1f} {y + 34:.1f} "
               f"{x - 3:.1f} {y + 13:.1f}", class_="edge")  # fmt: skip
    return Markup(line + _point(x - 3, y + 13, math.radians(207)))


def _point(x: float, y: float, angle: float) -> Markup:
    corners = [(x, y), *((x - 8 * math.cos(angle + turn), y - 8 * math.sin(angle + turn)) for turn in (-0.4, 0.4))]
    return tag("polygon", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in corners), class_="head")


def _px(value: Any) -> str:
    return f"{value:.1f}"
