"""Settings without effect are refused before a run, while rows measured under them stay readable."""

import pytest
from batchscale.config.experiment import parse, refuse_contradictions
from refusals import altered, refusal

DECAYED = "budget.max_epochs: 3.0, expected at most epochs = 2.0, where"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "target",
            {"accuracy": 0.5, "also": [0.5]},
            "target.also: [0.5] holds accuracy = 0.5 itself, expected other targets",
        ),
        (
            "batch_sizes",
            {"values": [8, 16], "factor": 3},
            "batch_sizes.factor: 3 with values, expected a factor only with start and stop",
        ),
        (
            "learning_rate",
            {"anchor": 0.1, "span": 0, "extend": 3},
            "learning_rate.extend: 3 with span = 0, expected a span of 1 or more",
        ),
        (
            "learning_rate",
            {"anchor": 0.1, "schedule": "linear_decay"},
            f"{DECAYED} 'linear_decay' has brought the rate to 0",
        ),
        (
            "learning_rate",
            {"anchor": 0.1, "schedule": "warmup_cosine", "warmup_epochs": 1},
            f"{DECAYED} 'warmup_cosine' has brought the rate to 0",
        ),
    ],
)
def test_settings_that_would_be_ignored_or_trained_in_vain_are_read_and_not_run(path, value, message):
    data = {**altered(path, value), "budget": {"epochs": 2, "max_epochs": 3}}
    parse(data, "tiny", "tiny.toml")
    assert refusal(data, lambda one: refuse_contradictions(one, "tiny.toml")) == f"tiny.toml: {message}"
    refuse_contradictions(
        parse({**altered("learning_rate", {"anchor": 0.1, "span": 0}), "budget": data["budget"]}, "tiny", "tiny.toml"),
        "tiny.toml",
    )
