"""matplotlib's SVG as the page shows it: panel by panel, in the colours of its theme, with titles under the pointer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, Tuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from sr_deploy.results.report.drawing import COLOURS, figure_file, one_line
from sr_deploy.results.report.figures import Drawing

if TYPE_CHECKING:
    from matplotlib.transforms import Bbox

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_CLASSES = {"mark": "mark", "best": "mark best", "xtick": "tick", "ytick": "tick"}
_FONT_FAMILY = re.compile(r"font-family: [^;]*;?")
_KEY_PX_PER_POINT = 1.5

Box = Tuple[float, float, float, float]
"""Left, top, width and height in points, the unit of the SVG."""


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

    def box_of(extent: Bbox) -> Box:
        return extent.x0, height - extent.y1, extent.width, extent.height

    panels = tuple(
        _part(parts[panel.get_gid()], box_of(panel.bbox), drawing.descriptions[panel.get_gid()])
        for panel in drawing.figure.subfigs
    )
    legend = []
    for handle in drawing.figure.legends[0].legend_handles if drawing.figure.legends else ():
        left, top, width, tall = box_of(handle.get_window_extent())
        box = (left - 1, top + tall / 2 - 4, width + 2, 8.0)
        legend.append((drawing.keys[handle.get_gid()], _key(parts[handle.get_gid()], box)))
    return PageCharts(panels, tuple(legend))


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
    if "style" in element.attrib:
        style = _FONT_FAMILY.sub("", element.attrib["style"])
        for name, colour in COLOURS.items():
            style = style.replace(colour, f"var(--{name})")
        element.set("style", style)
    prefix = re.split("[-_]", gid)[0]
    if prefix in _CLASSES:
        element.set("class", _CLASSES[prefix])
    if gid in titles:
        SubElement(element, "title").text = one_line(titles[gid])


def _part(group: Element, box: Box, description: str) -> str:
    svg = Element(
        "svg", {"viewBox": _view_box(box), "role": "img", "aria-label": one_line(description)}
    )
    svg.append(group)
    return _text(svg)


def _key(group: Element, box: Box) -> str:
    width, height = (f"{length * _KEY_PX_PER_POINT:.1f}" for length in box[2:])
    attributes = {"viewBox": _view_box(box), "width": width, "height": height}
    svg = Element("svg", {**attributes, "aria-hidden": "true"})
    svg.append(group)
    return _text(svg)


def _view_box(box: Box) -> str:
    return " ".join(f"{v:.2f}" for v in box)


def _text(svg: Element) -> str:
    return re.sub(r"\s*\n\s*", " ", ElementTree.tostring(svg, encoding="unicode"))
