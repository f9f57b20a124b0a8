"""A figure: a chart in Vega-Lite's form, what it shows in words, and its numbers as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
MOST_ROWS = 60  # of a figure's table on the page; a file has all
# Okabe and Ito's, which the colour-blind can tell apart
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#8A6D00")
ZOOM = [{"name": "zoom", "select": "interval", "bind": "scales"}]


@dataclass(frozen=True)
class Figure:
    """`rows` are the chart's data; `columns` their names with what they are."""

    name: str  # of files, too
    title: str
    alt: str  # for whoever can't see it
    rows: Sequence[dict[str, Any]]
    chart: dict[str, Any]  # without data
    height: int = 240

    @property
    def columns(self) -> list[str]:
        """Of the table."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    @property
    def table(self) -> list[list[Any]]:
        """Some rows, spread over all."""
        step = max(1, -(-len(self.rows) // MOST_ROWS))
        return [[row.get(name) for name in self.columns] for row in self.rows[::step]]

    def spec(self, width: int | str = "container") -> dict[str, Any]:
        """All that Vega-Lite wants."""
        size = {} if "spec" in self.chart or "vconcat" in self.chart else {"width": width, "height": self.height}
        return {
            "$schema": SCHEMA,
            "description": self.alt,
            "data": {"values": list(self.rows)},
            **size,
            "background": "transparent",
            "config": {"range": {"category": list(COLOURS)}, "view": {"stroke": None}},
            **self.chart,
        }


def axis(field: str, title: str, kind: str = "quantitative", **more: Any) -> dict[str, Any]:
    """An encoding channel."""
    zero = {"scale": {"zero": False, "nice": False}} if kind == "quantitative" and "scale" not in more else {}
    return {"field": field, "type": kind, "title": title, **zero, **more}


def lines(x: dict[str, Any], y: dict[str, Any], colour: str, title: str | None, points: bool = False) -> dict[str, Any]:
    """Lines that can be zoomed into, a colour each."""
    mark = {"type": "line", "point": points, "clip": True}
    encoding = {
        "x": x,
        "y": y,
        "color": {"field": colour, "type": "nominal", "title": title},
        "tooltip": [
            {"field": channel["field"], "type": channel["type"], "title": channel["title"]} for channel in (x, y)
        ]
        + [{"field": colour, "type": "nominal", "title": title or colour}],
    }
    return {"mark": mark, "encoding": encoding, "params": ZOOM}
