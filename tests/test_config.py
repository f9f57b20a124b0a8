import dataclasses
import pickle

import pytest

from async_dni import ConfigError, ExperimentConfig, TrainerConfig

CONFIGS = (TrainerConfig, ExperimentConfig)
OPTIONS = [(config, field) for config in CONFIGS for field in dataclasses.fields(config)]
REFUSED = [
    (TrainerConfig, "workers", (0, -1, 2.0, True, "3", None)),
    (TrainerConfig, "method", ("sgd", "", "CDNI", None)),
    (TrainerConfig, "split", ((), (0, 1), (2, 1), (1, 1), (1.0, 2), 1, "1,2")),
    (TrainerConfig, "split_points", ((), ("",), (1,), 3)),
    (TrainerConfig, "batch_size", (0, 2.5, None)),
    (TrainerConfig, "synthesizer_lr", (0, -1e-3, float("nan"), float("inf"), "1")),
    (TrainerConfig, "synthesizer_hidden", ((0,), (1.5,), 8, "88")),
    (TrainerConfig, "synthesizer_matmul_precision", ("bfloat16", "", [])),
    (TrainerConfig, "matmul_precision", ("bf16", 1)),
    (TrainerConfig, "seed", (-1, 0.5, None)),
    (TrainerConfig, "queue_capacity", (0, None)),
    (TrainerConfig, "overflow", ("wait", None)),
    (TrainerConfig, "threads_per_worker", (0, 1.0)),
    (TrainerConfig, "eval_every", (-1, None)),
    (TrainerConfig, "start_timeout", (0, float("inf"), None)),
    (ExperimentConfig, "model", ("alexnet", None, "net.py:", ":make", "a b:c d", 3)),
    (ExperimentConfig, "model_arg", (("depth",), ("=3",), ("a b=3",), ("depth=1", "depth=2"), "depth=3", 3)),
    (ExperimentConfig, "data", ("mnist", "net.py:", 3)),
    (ExperimentConfig, "layers", (0, 1.0)),
    (ExperimentConfig, "width", (0,)),
    (ExperimentConfig, "dataset", ("imagenet",)),
    (ExperimentConfig, "image_size", (27, 0)),
    (ExperimentConfig, "epochs", (0,)),
    (ExperimentConfig, "steps", (0,)),
    (ExperimentConfig, "optimizer", ("lbfgs",)),
    (ExperimentConfig, "lr", (0.0, -1.0, float("nan"), None)),
    (ExperimentConfig, "momentum", (-0.1, 1.0, 1, float("nan"))),
    (ExperimentConfig, "weight_decay", (-1e-9, float("inf"))),
]
ALLOWED = [
    (TrainerConfig, {"workers": 1}),
    (TrainerConfig, {"workers": 3, "split": (1, 4)}),
    (TrainerConfig, {"synthesizer_hidden": ()}),
    (TrainerConfig, {"synthesizer_lr": 1}),
    (TrainerConfig, {"seed": 0, "eval_every": 0}),
    (TrainerConfig, {"overflow": "drop", "method": "dni"}),
    (ExperimentConfig, {"image_size": 32, "steps": 1}),
    (ExperimentConfig, {"momentum": 0, "weight_decay": 0}),
    (ExperimentConfig, {"model": "tanh", "layers": 2}),
    (ExperimentConfig, {"model": "package.module:Class.make", "data": "path/to/file.py:make", "dataset": None}),
    (ExperimentConfig, {"model": "resnet", "model_arg": ("depth=14", "width=8")}),
    (TrainerConfig, {"split_points": ("layer1", "layer2.0")}),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_defaults_pass_their_own_checks(config):
    config()


@pytest.mark.parametrize(
    ("config", "name", "value"), [(config, name, value) for config, name, values in REFUSED for value in values]
)
def test_a_bad_value_is_refused_by_name_with_what_is_allowed(config, name, value):
    with pytest.raises(ConfigError) as caught:
        config(**{name: value})
    assert caught.value.setting == name
    assert caught.value.given == value or value != value
    assert str(caught.value) == f"{name}: got {caught.value.shown}; {caught.value.allowed}"
    assert caught.value.allowed.startswith("allowed: ")


@pytest.mark.parametrize(("config", "settings"), ALLOWED)
def test_values_at_the_bounds_are_allowed(config, settings):
    made = config(**settings)
    assert {name: getattr(made, name) for name in settings} == settings


@pytest.mark.parametrize(("config", "field"), OPTIONS, ids=lambda value: getattr(value, "name", None))
def test_every_option_has_its_help(config, field):
    assert field.metadata["help"]


@pytest.mark.parametrize("config", CONFIGS)
def test_settings_do_not_change_after_they_were_checked(config):
    made = config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, dataclasses.fields(config)[0].name, 0)


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"workers": 3, "split": (1,)}, "split"),
        ({"workers": 1, "split": (1,)}, "split"),
        ({"method": "backprop", "overflow": "drop"}, "overflow"),
    ],
)
def test_trainer_settings_that_contradict_each_other_are_refused(settings, setting):
    with pytest.raises(ConfigError) as caught:
        TrainerConfig(**settings)
    assert caught.value.setting == setting


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"epochs": 1, "steps": 1}, "steps"),
        ({"model": "tanh", "layers": 3}, "layers"),
        ({"model": "resnet", "layers": 8}, "layers"),
        ({"model": "resnet", "model_arg": ("blocks=3",)}, "model_arg"),
        ({"model": "resnet", "model_arg": ("depth=wide",)}, "model_arg"),
        ({"model": "fcn", "width": 8, "model_arg": ("width=8",)}, "model_arg"),
        ({"data": "file.py:make", "dataset": "mnist"}, "dataset"),
        ({"data": "file.py:make", "sequence_length": 3}, "sequence_length"),
        ({"data_arg": ("a=1",)}, "data_arg"),
    ],
)
def test_experiment_settings_that_contradict_each_other_are_refused(settings, setting):
    with pytest.raises(ConfigError) as caught:
        ExperimentConfig(**settings)
    assert caught.value.setting == setting


@pytest.mark.parametrize(
    ("settings", "hidden"),
    [
        ({"method": "cdni"}, ()),
        ({"method": "dni"}, (1024, 1024)),
        ({"method": "dni", "synthesizer_hidden": ()}, ()),
        ({"method": "cdni", "synthesizer_hidden": (8, 4)}, (8, 4)),
    ],
)
def test_hidden_widths_default_by_method(settings, hidden):
    assert TrainerConfig(**settings).hidden == hidden


@pytest.mark.parametrize(
    ("given", "shown"), [((2, 1), "2,1"), ([0], "0"), ("2,1", "2,1"), (0.5, "0.5"), (None, "None")]
)
def test_what_was_given_is_shown_as_it_is_typed(given, shown):
    assert str(ConfigError("split", given, "allowed: less")) == f"split: got {shown}; allowed: less"


def test_config_error_is_a_value_error_that_survives_pickling():
    error = pickle.loads(pickle.dumps(ConfigError("workers", 0, "allowed: more")))
    assert isinstance(error, ValueError)
    assert (error.setting, error.given, error.allowed) == ("workers", 0, "allowed: more")


def test_names_may_be_given_in_one_text():
    config = TrainerConfig(metrics="top5,r2", augment="flip", split_points="a,b.c")
    assert (config.metrics, config.augment, config.split_points) == (("top5", "r2"), ("flip",), ("a", "b.c"))
    assert config == TrainerConfig(metrics=("top5", "r2"), augment=("flip",), split_points=("a", "b.c"))
