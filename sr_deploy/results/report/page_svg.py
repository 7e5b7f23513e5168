"""matplotlib's SVG adapted to the page: by panel, in the colours of its theme, with titles."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, Tuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from sr_deploy.results.report.drawing import COLOURS, figure_file, one_line
from sr_deploy.results.report.figures import Drawing

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_CLASSES = {
    "mark": "mark",
    "best": "mark best",
    "xtick": "tick",
    "ytick": "tick",
    "front": "front",
}
_OF_ENTRY = re.compile(r"(?:mark|best|curve|label|name)-\w+-(r\d+)")
_FONT = re.compile(r"font: (\S+px) [^;]*")  # as written by matplotlib 3.7
_FONT_FAMILY = re.compile(r"font-family: [^;]*;?")
_MORE_DIGITS = re.compile(r"(\.\d\d)\d+")
_PX_PER_POINT = 1.5


@dataclass(frozen=True)
class PageCharts:
    """The parts of one figure, each an SVG element of its own."""

    panels: Tuple[str, ...]
    legend: Tuple[Tuple[str, str], ...]
    """Text and sample."""


def page_charts(drawing: Drawing) -> PageCharts:
    """Return the panels and the legend of a figure as inline SVG.

    They hold no ids and no references, so that several figures can stand on one page.
    """
    root = ElementTree.fromstring(figure_file(drawing.figure, "svg").decode("utf-8"))
    shapes = {f"#{e.get('id')}": e.get("d", "") for e in root.iter(f"{_SVG}path") if e.get("id")}
    parts = {e.get("id", ""): e for e in root.iter(f"{_SVG}g")}
    for element in list(root.iter()):
        _adapt(element, shapes, drawing.titles)
    height = drawing.figure.bbox.height
    panels = []
    for panel in drawing.figure.subfigs:
        description = one_line(drawing.descriptions[panel.get_gid()])
        box = panel.bbox.x0, height - panel.bbox.y1, panel.bbox.width, panel.bbox.height
        attributes = {"role": "img", "aria-label": description}
        panels.append(_svg(parts[panel.get_gid()], box, attributes))
    legend = []
    for handle in drawing.figure.legends[0].legend_handles if drawing.figure.legends else ():
        extent = handle.get_window_extent()
        box = extent.x0 - 1, height - (extent.y0 + extent.y1) / 2 - 4, extent.width + 2, 8.0
        size = {"width": f"{box[2] * _PX_PER_POINT:.1f}", "height": f"{box[3] * _PX_PER_POINT:.1f}"}
        sample = _svg(parts[handle.get_gid()], box, {**size, "aria-hidden": "true"})
        legend.append((drawing.keys[handle.get_gid()], sample))
    return PageCharts(tuple(panels), tuple(legend))


def _adapt(element: Element, shapes: Dict[str, str], titles: Dict[str, str]) -> None:
    """Make an element independent of the file: no ids, marks as paths, colours of the theme."""
    element.tag = element.tag.replace(_SVG, "")
    gid = element.attrib.pop("id", "")
    element.attrib.pop("clip-path", None)
    for definitions in [e for e in element if e.tag.endswith("defs")]:
        element.remove(definitions)
    if element.tag == "use":
        element.tag = "path"
        x, y = element.attrib.pop("x"), element.attrib.pop("y")
        element.set("d", shapes[element.attrib.pop(_HREF)])
        element.set("transform", f"translate({x} {y})")
    for key in {"d", "x", "y", "transform"} & element.attrib.keys():
        element.set(key, _MORE_DIGITS.sub(r"\1", element.attrib[key]))
    if "style" in element.attrib:
        style = _FONT.sub(r"font-size: \1", element.attrib["style"])
        style = _FONT_FAMILY.sub("", style)
        for name, colour in COLOURS.items():
            style = style.replace(colour, f"var(--{name})")
        element.set("style", style)
    prefix = re.split("[-_]", gid)[0]
    if prefix in _CLASSES:
        element.set("class", _CLASSES[prefix])
    of_entry = _OF_ENTRY.fullmatch(gid)
    if of_entry:
        element.set("data-id", of_entry[1])
    if gid in titles:
        SubElement(element, "title").text = one_line(titles[gid])


def _svg(part: Element, box: Tuple[float, ...], attributes: Dict[str, str]) -> str:
    """Return a part of the figure as an image. box: left, top, width and height in points."""
    svg = Element("svg", {"viewBox": " ".join(f"{v:.2f}" for v in box), **attributes})
    svg.append(part)
    return re.sub(r"\s*\n\s*", " ", ElementTree.tostring(svg, encoding="unicode"))
