"""What every command prints with `--json`, and the JSON Schemas of it and of experiments, generated from the types.

`python -m batchscale.cli.json_output` writes the file again after a type has changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from batchscale.analysis.compare.compare import Comparison
from batchscale.analysis.exchange.analyze import MachineSummaries
from batchscale.analysis.exchange.submit import Submission
from batchscale.analysis.summary.groups import Groups
from batchscale.analysis.summary_types import Summary
from batchscale.analysis.text.explain import Explanation
from batchscale.cli.json_parts import Checks, Listed, Written
from batchscale.config.experiment import Experiment
from batchscale.records.plan_file import Plan

VERSION = 1
"""Version of the whole. It changes when a field is removed or changes its meaning, and not when one is added."""
DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA = Path(__file__).with_name("json_output.schema.json")


class Quick(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `run --quick`.

    Attributes:
        decided: True if no other batch size is tied with the fastest in any summary.
        undecided: how undecided each answer is, in words, one sentence for each summary.
        next_command: the command that measures more; null where the answer is decided.
        summaries: the answers.
    """

    schema: Literal[1] = 1
    decided: bool
    undecided: list[str]
    next_command: str | None
    summaries: list[Summary]


OUTPUTS: dict[str, tuple[Any, ...]] = {
    "run": (Summary, list[Summary], Quick),
    "list": (Listed,),
    "verify": (Summary,),
    "doctor": (Checks,),
    "report": (Summary,),
    "explain": (Explanation,),
    "figures": (Written,),
    "export": (Written,),
    "compare": (Comparison,),
    "site": (Written,),
    "submit": (Submission,),
    "analyze": (Summary, MachineSummaries, Groups),
    "predict": (dict[str, Summary],),
    "plan": (Plan,),
}
"""The types that a command prints: several where it depends on what was asked."""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of every command's output; `#/$defs/COMMAND` is that of one command."""
    types = list(dict.fromkeys(one for several in OUTPUTS.values() for one in several))
    schemas, parts = _schemas(types)
    of = dict(zip(map(repr, types), schemas, strict=True))
    commands = {name: {"anyOf": [of[repr(one)] for one in several]} for name, several in OUTPUTS.items()}
    return {
        "$schema": DIALECT,
        "title": "What batchscale COMMAND --json prints",
        "version": VERSION,
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in commands],
        "$defs": {**commands, **parts},
    }


def experiment_schema() -> dict[str, Any]:
    """Return the JSON Schema of an experiment's TOML file, which editors complete and check keys by."""
    [whole], parts = _schemas([Experiment])
    return {"$schema": DIALECT, "title": "An experiment of batchscale", **whole, "$defs": parts}


def _schemas(types: Sequence[Any]) -> tuple[Sequence[dict[str, Any]], dict[str, Any]]:
    """Return the schema of each type, and by name the parts that they refer to."""
    schemas, parts = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    for part in parts.values():
        # Docstrings of Python 3.13 lack the indentation of their source; those of earlier versions have it.
        part["description"] = inspect.cleandoc(part["description"])
    return tuple(schemas), parts


def encoded(schema: dict[str, Any]) -> bytes:
    """Return a schema as the text of a file."""
    return msgspec.json.format(msgspec.json.encode(schema, order="deterministic")) + b"\n"


if __name__ == "__main__":
    SCHEMA.write_bytes(encoded(json_schema()))
