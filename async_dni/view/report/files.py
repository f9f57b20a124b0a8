"""Figures as files, for papers."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .figure import Figure

WIDTH, SCALE = 480, 3.0  # of a picture; pixels a unit


def write_png(figure: Figure, path: Path) -> None:
    """As a picture of pixels."""
    import vl_convert

    path.write_bytes(vl_convert.vegalite_to_png(_printed(figure), scale=SCALE))


def write_svg(figure: Figure, path: Path) -> None:
    """As a drawing."""
    import vl_convert

    path.write_text(vl_convert.vegalite_to_svg(_printed(figure)))


def write_csv(figure: Figure, path: Path) -> None:
    """Its numbers."""
    with path.open("w", newline="") as file:
        rows = csv.DictWriter(file, figure.columns)
        rows.writeheader()
        rows.writerows(figure.rows)


WRITERS: dict[str, Callable[[Figure, Path], None]] = {"png": write_png, "svg": write_svg, "csv": write_csv}


def write_figures(figures: Sequence[Figure], folder: Path, kind: str) -> list[Path]:
    """All of them as files of a kind, in a folder that is made; returns where they are. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for figure in figures:
        path = folder / f"{figure.name}.{kind}"
        WRITERS[kind](figure, path)
        paths.append(path)
    return paths


def _printed(figure: Figure) -> dict[str, Any]:
    """On white, without what only a page can do."""
    return {**figure.spec(WIDTH), "background": "white"}
