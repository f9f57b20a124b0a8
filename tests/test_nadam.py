"""`--optimizer nadam`: the look-ahead that gradients that come late want."""

from __future__ import annotations

from pathlib import Path

import torch
from test_parity import seeded_fcn
from test_resume import EPOCH, assert_same, fit, newest

from async_dni import ExperimentConfig
from async_dni.cli import make_optimizer
from async_dni.learning.methods.method import MethodParts, rate_of_model


def test_the_command_line_makes_that_of_the_paper() -> None:
    factory = make_optimizer(ExperimentConfig(optimizer="nadam", lr=2e-3, weight_decay=0.1))
    made = factory(torch.nn.Linear(2, 2).parameters())
    assert type(made) is torch.optim.NAdam
    expected = {"lr": 2e-3, "betas": (0.99, 0.999), "weight_decay": 0.1, "decoupled_weight_decay": True}
    assert {name: made.defaults[name] for name in expected} == expected


def test_a_method_s_own_model_has_its_rate() -> None:
    parameters = list(torch.nn.Linear(2, 2).parameters())
    optimizer = make_optimizer(ExperimentConfig(optimizer="nadam", lr=2e-3))(parameters)
    assert rate_of_model(MethodParts(optimizer, None, 0, None)) == 2e-3


def test_two_and_two_epochs_are_four(small_mnist: tuple, tmp_path: Path) -> None:
    settings = {"method": "delayed", "lag": 3, "serial": True, "checkpoint_every": 2 * EPOCH}
    settings["optimizer"] = make_optimizer(ExperimentConfig(optimizer="nadam"))
    for epochs, where in ((4, {"run_dir": "whole"}), (2, {"run_dir": "halves"}), (4, {"resume": "halves"})):
        paths = {name: tmp_path / directory for name, directory in where.items()}
        fit(small_mnist[0], epochs, seeded_fcn(4, 16), **settings, **paths)
    assert_same(newest(tmp_path / "whole"), newest(tmp_path / "halves"))
