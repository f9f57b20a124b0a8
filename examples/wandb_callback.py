"""A run on Weights & Biases: `pip install wandb`; without an account, `WANDB_MODE=offline`.

What a worker tells has its batches as the step, under a name of its own, as workers are not at the same batch.
"""

from __future__ import annotations

from typing import Any

import wandb

from async_dni import Callback, Evaluation, Trainer, TrainResult, fcn, load_dataset


class ToWandb(Callback):
    """Settings, records and evaluations; the trained network as an artifact."""

    def __init__(self, project: str) -> None:
        self.project = project

    def on_begin(self, settings: dict[str, Any]) -> None:
        self.run = wandb.init(project=self.project, config=settings)
        self.run.define_metric("test/*", step_metric="batches")

    def on_step(self, record: dict[str, Any]) -> None:
        stage = f"stage/{record['worker']}"
        self.run.define_metric(f"{stage}/*", step_metric=f"{stage}/batches")
        values = {"batches": record["step"], "samples_per_second": record["samples_per_second"], "loss": record["loss"]}
        self.run.log({f"{stage}/{name}": value for name, value in values.items() if value is not None})

    def on_evaluation(self, evaluation: Evaluation) -> None:
        found = {"test/error": evaluation.test_error, "test/loss": evaluation.test_loss}
        self.run.log({"batches": evaluation.step, **found})

    def on_end(self, result: TrainResult) -> None:
        self.run.summary["test/error"] = result.test_error
        if result.run_dir is not None:
            artifact = wandb.Artifact("model", type="model")
            artifact.add_file(str(result.run_dir / "model.pt"))
            self.run.log_artifact(artifact)
        self.run.finish()


def main(steps: int | None = None, **settings: Any) -> TrainResult:
    train_set, test_set = load_dataset("mnist")
    trainer = Trainer(fcn(layers=3, width=256), workers=3, callbacks=ToWandb("async_dni"), **settings)
    return trainer.fit(train_set, steps=steps, epochs=None if steps else 10, eval_set=test_set)


if __name__ == "__main__":
    print(f"test error {main(run_dir='runs/wandb').test_error:.2f} %")
