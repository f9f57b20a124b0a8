"""A run's state as a picture of text, as wide and as high as there is room for.

Phases are told by glyphs and by colours, so that either does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..record.telemetry import WAITS
from .cells import blocks, clock, describe_gradients, number
from .state import RunState, StageState


class Kind(NamedTuple):
    """What a stage spends its time with."""

    name: str
    phases: Sequence[str]
    glyph: str
    plain: str  # where the terminal has no such glyph
    colour: str


KINDS = (
    Kind("wait", WAITS, "░", ".", "bright_black"),
    Kind("load", ("load",), "▤", "l", "cyan"),
    Kind("forward", ("forward",), "█", "F", "blue"),
    Kind("update", ("update",), "▓", "U", "green"),
    Kind("learn", ("learn",), "▒", "L", "magenta"),
    Kind("send", ("send",), "▬", "s", "yellow"),
    Kind("snapshot", ("snapshot",), "▪", "n", "red"),
)
LEVELS, PLAIN_LEVELS = "▁▂▃▄▅▆▇█", "12345678"
COLUMNS = (
    "stage",
    "device",
    "blocks",
    "step",
    "samples/s",
    "time",
    "queued",
    "lag",
    "loss",
    "synth. loss",
    "cpu",
    "memory",
    "restarts",
)
# one after the other, where there is no room
LEFT_OUT = ("device", "memory", "cpu", "synth. loss", "blocks", "restarts", "queued", "lag", "loss")
BAR, LEAST_BAR = 24, 8  # cells of a stage's time
FIXED_LINES = 6  # that are no stage's


def time_bar(seconds: Mapping[str, float], width: int, plain: bool) -> Text:
    """Where a stage's time went, as parts of a bar."""
    bar = Text(no_wrap=True)
    for kind, cells in zip(KINDS, shares(seconds, width), strict=True):
        bar.append((kind.plain if plain else kind.glyph) * cells, style=kind.colour)
    return bar


def shares(seconds: Mapping[str, float], width: int) -> list[int]:
    """Cells of each kind; as many as there are, in all, and the largest rests first."""
    spent = [sum(seconds.get(phase, 0.0) for phase in kind.phases) for kind in KINDS]
    whole = sum(spent)
    if not whole:
        return [0] * len(KINDS)
    exact = [width * each / whole for each in spent]
    cells = [int(each) for each in exact]
    by_rest = sorted(range(len(KINDS)), key=lambda i: cells[i] - exact[i])
    for index in by_rest[: width - sum(cells)]:
        cells[index] += 1
    return cells


def draw(state: RunState, console: Console, height: int | None = None) -> RenderableType:
    """The whole picture; `height`: lines that there are for it."""
    plain = not (console.encoding or "").lower().startswith("utf")
    room = max(1, (height or console.height) - FIXED_LINES - bool(state.check))
    parts: list[RenderableType] = [_headline(state, console.width, plain), *_results(state, plain)]
    parts.append(_table(state, console, room, plain))
    if len(state.stages) > room:
        parts.append(Text(f"and {len(state.stages) - room} more stages, for which there is no room", style="dim"))
    if state.check is not None:
        parts.append(_line("gradients  " + describe_gradients(state.check["stages"])))
    parts.append(_legend(plain))
    return Group(*parts)


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _headline(state: RunState, width: int, plain: bool) -> RenderableType:
    """How far it is."""
    share = state.step / state.steps if state.steps else 0.0
    left, rate = state.seconds_left, state.samples_per_second
    texts = [f"step {state.step:,}/{state.steps:,}", f"{share:.0%}"] if state.steps else [f"step {state.step:,}"]
    after = [] if left is None or state.end else [f"{clock(left)} left"]
    after += [] if rate is None or state.end else [f"{rate:,.0f} samples/s"]
    after += [state.end] if state.end else [state.phase] if state.phase else []
    grid = Table.grid(padding=(0, 1))
    cells: list[RenderableType] = [_line(state.title, "bold")] if state.title and width >= 100 else []
    cells += [_line("  ".join(texts))]
    if width >= 60:
        bar = ProgressBar(total=1.0, completed=share, width=min(30, width // 4))
        cells.append(Text("#" * round(share * 20) + "-" * (20 - round(share * 20))) if plain else bar)
    cells.append(_line("  ".join(after)))
    grid.add_row(*cells)
    return grid


def _results(state: RunState, plain: bool) -> Iterable[RenderableType]:
    """The newest evaluation, and how it went until there."""
    if not state.evaluations:
        yield _line("no evaluation yet", "dim")
        return
    last = state.evaluations[-1]
    name, unit = ("test_error", " %") if last["test_error"] is not None else ("test_loss", "")
    values = [float(each[name]) for each in state.evaluations if each[name] is not None]
    parts = [f"{name.replace('_', ' ')} {values[-1]:.4g}{unit}"]
    if len(values) > 1:
        arrows = ("down", "as before", "up") if plain else ("↓", "=", "↑")
        parts += [arrows[1 + (values[-1] > values[-2]) - (values[-1] < values[-2])], sparkline(values[-24:], plain)]
    parts += [] if name == "test_loss" else [f"test loss {last['test_loss']:.4f}"]
    yield _line("  ".join([*parts, f"at step {last['step']:,}"]))


def sparkline(values: Sequence[float], plain: bool = False) -> str:
    """Values as small bars, the highest for the greatest."""
    levels = PLAIN_LEVELS if plain else LEVELS
    least, span = min(values), max(values) - min(values)
    if len(values) < 2:
        return ""
    return "".join(levels[0 if not span else round((value - least) / span * (len(levels) - 1))] for value in values)


def _table(state: RunState, console: Console, room: int, plain: bool) -> Table:
    """As many columns as there is room for; what is left of it is the bars'."""
    options = console.options.update(max_width=10_000)
    for left_out in range(len(LEFT_OUT) + 1):
        columns = [name for name in COLUMNS if name not in LEFT_OUT[:left_out]]
        least = console.measure(_table_of(state, columns, room, plain, LEAST_BAR), options=options).maximum
        if least <= console.width:
            return _table_of(state, columns, room, plain, min(BAR, LEAST_BAR + console.width - least))
    return _table_of(state, [name for name in columns if name != "time"], room, plain, 0)


def _table_of(state: RunState, columns: Sequence[str], room: int, plain: bool, bar: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="left" if name in ("blocks", "time", "device") else "right", no_wrap=True)
    for k, stage in enumerate(state.stages[:room]):
        cells = _cells(k, stage, state, plain, bar)
        table.add_row(*(cells.get(name, "") for name in columns))
    return table


def _cells(k: int, stage: StageState, state: RunState, plain: bool, bar: int) -> dict[str, RenderableType]:
    """What there is of a stage, by column."""
    cells: dict[str, RenderableType] = {"stage": str(k), "device": stage.device}
    cells["blocks"] = Text(blocks(stage.layers) if stage.layers else "")
    cells["restarts"] = Text(str(stage.restarts), style="red") if stage.restarts else "0"
    record = stage.record
    if record is None:
        return {**cells, "step": "ready" if stage.is_ready else "starts" if not state.end else ""}
    lag = record["lag"]
    return {
        **cells,
        "step": f"{record['step']:,}",
        "samples/s": f"{record['samples_per_second']:,.0f}",
        "time": time_bar(record["seconds"], bar, plain),
        "queued": " ".join(_queue(name, depth, state.capacity, plain) for name, depth in record["queues"].items()),
        "lag": f"{lag['min']}/{lag['mean']:.1f}/{lag['max']}" if lag else "",
        "loss": number(record["loss"]),
        "synth. loss": number(record["synthesizer_loss"]),
        "cpu": f"{record['cpu_percent']:.0f}%",
        "memory": f"{record['rss_bytes'] / 2**20:,.0f} MB",
    }


def _queue(name: str, depth: int, capacity: int | None, plain: bool) -> str:
    """A queue's first letter, its depth, and a bar of that."""
    levels = PLAIN_LEVELS if plain else LEVELS
    level = "" if capacity is None else levels[min(len(levels) - 1, round(depth / capacity * (len(levels) - 1)))]
    return f"{name[0]}{depth}" + ("" if plain else level)


def _legend(plain: bool) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis", style="dim")
    for kind in KINDS:
        text.append(kind.plain if plain else kind.glyph, style=kind.colour)
        text.append(f" {kind.name}  ")
    return text
