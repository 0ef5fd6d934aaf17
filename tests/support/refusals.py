"""A minimal experiment, versions of it with one value replaced, and the message that refuses one."""

import msgspec
import pytest
from batchscale.config.experiment import parse
from batchscale.errors import InputError

MINIMAL = {
    "title": "tiny",
    "workload": {"dataset": "digits", "model": "mlp", "optimizer": "sgd"},
    "target": {"accuracy": 0.9},
    "batch_sizes": {"values": [16, 64]},
    "learning_rate": {"anchor": 0.1},
    "budget": {"epochs": 2},
}


def altered(path, value):
    """Return the minimal experiment with one value replaced. `path` is dotted."""
    *tables, key = path.split(".")
    data = msgspec.json.decode(msgspec.json.encode(MINIMAL))
    table = data
    for name in tables:
        table = table.setdefault(name, {})
    table[key] = value
    return data


def refusal(data, then=lambda _: None):
    with pytest.raises(InputError) as error:
        then(parse(data, "tiny", "tiny.toml"))
    message = str(error.value)
    assert message.isprintable()
    assert len(message) < 400
    return message
