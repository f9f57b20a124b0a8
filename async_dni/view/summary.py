"""What a run came to, for a person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from .cells import blocks, describe_gradients, describe_metrics


def print_summary(console: Console, summary: dict[str, Any], run_dir: Path | None) -> None:
    """What a run came to."""
    resumed = f" (from {summary['start']})" if summary.get("start") else ""
    lines = [
        f"{summary['method']}, {summary['num_workers']} workers: {summary['steps']} steps{resumed}, {summary['samples']} samples"
        f" in {summary['wall_seconds']:.1f} s ({summary['samples_per_second']:,.0f} samples/s)"
    ]
    several = len({worker.get("host", 0) for worker in summary["workers"]}) > 1

    def on(worker: dict[str, Any]) -> str:
        return f"  host {worker['host']}" if several else ""

    for worker in summary["workers"]:
        lag = "" if worker["mean_lag"] is None else f"  mean lag {worker['mean_lag']:.1f}"
        lines.append(
            f"  stage {worker['index']}{on(worker)}  pid {worker['pid']}  {worker['device']}  blocks {blocks(worker['layers'])}  "
            f"updates {worker['updates']}  synthesizer updates {worker['synthesizer_updates']}  "
            f"busy {worker['busy_fraction']:.0%}  dropped {worker['dropped']}{lag}{exceptions(worker)}"
        )
    if summary["test_error"] is not None:
        lines.append(f"test error {summary['test_error']:.2f} %")
    if summary.get("metrics"):
        lines.append(describe_metrics(summary["metrics"]).rstrip())
    if best := summary.get("best"):
        lines.append(f"best evaluation: step {best['step']}, test loss {best['test_loss']:.4f}{_error(best)}")
    if checks := summary.get("gradient_checks"):
        means = "one check" if checks["checks"] == 1 else f"means of {checks['checks']}"
        lines.append(f"gradients, {means}: {describe_gradients(checks['mean'])}")
    if summary.get("ended_early") is not None:
        lines.append(summary["ended_early"])
    if run_dir is not None:
        lines.append(f"run directory {run_dir}")
    if summary.get("interrupted_by") is not None:
        go_on = "" if run_dir is None else f"; --resume {run_dir} goes on"
        lines.append(f"ended early by {summary['interrupted_by']}{go_on}")
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _error(best: dict[str, Any]) -> str:
    return "" if best["test_error"] is None else f", test error {best['test_error']:.2f} %"


def exceptions(worker: dict[str, Any]) -> str:
    """What went wrong with a worker, where something did."""
    told = {"restarts": "restarts", "lost": "gradients lost", "skipped": "updates skipped"}
    return "".join(f"  {label} {worker[name]}" for name, label in told.items() if worker.get(name))
