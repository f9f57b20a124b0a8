"""A run on MLflow: `pip install mlflow`; without a server it is kept in ./mlflow.db, and `mlflow ui` shows it."""

from __future__ import annotations

from typing import Any

import mlflow

from async_dni import Callback, Evaluation, Trainer, TrainResult, fcn, load_dataset


class ToMlflow(Callback):
    """Settings, records and evaluations, with batches as steps; the run directory's files as artifacts."""

    def __init__(self, experiment: str) -> None:
        self.experiment = experiment

    def on_begin(self, settings: dict[str, Any]) -> None:
        mlflow.set_experiment(self.experiment)
        self.run = mlflow.start_run().info.run_id
        mlflow.log_params({name: str(value)[:250] for name, value in settings.items() if name != "used"})

    def on_step(self, record: dict[str, Any]) -> None:
        values = {"samples_per_second": record["samples_per_second"], "loss": record["loss"]}
        named = {f"stage{record['worker']}/{name}": value for name, value in values.items() if value is not None}
        mlflow.log_metrics(named, step=record["step"], run_id=self.run)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        found = {"test_loss": evaluation.test_loss, "test_error": evaluation.test_error}
        there = {name: value for name, value in found.items() if value is not None}
        mlflow.log_metrics(there, step=evaluation.step, run_id=self.run)

    def on_end(self, result: TrainResult) -> None:
        if result.run_dir is not None:
            for name in ("config.json", "summary.json", "model.pt"):
                mlflow.log_artifact(str(result.run_dir / name), run_id=self.run)
        mlflow.end_run("FINISHED" if result.interrupted_by is None else "KILLED")


def main(steps: int | None = None, **settings: Any) -> TrainResult:
    train_set, test_set = load_dataset("mnist")
    trainer = Trainer(fcn(layers=3, width=256), workers=3, callbacks=ToMlflow("async_dni"), **settings)
    return trainer.fit(train_set, steps=steps, epochs=None if steps else 10, eval_set=test_set)


if __name__ == "__main__":
    print(f"test error {main(run_dir='runs/mlflow').test_error:.2f} %")
