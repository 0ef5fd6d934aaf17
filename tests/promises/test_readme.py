"""The README keeps its word: its commands run, its links lead somewhere, and its two languages are in step."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from math import log2
from pathlib import Path
from typing import NamedTuple

import batchscale
import click
import pytest
import simulated_folder
import yaml
from batchscale.cli import command_line, measuring
from batchscale.measure.ahead import planning, plugins
from planned_devices import target
from repository import ROOT

README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = [README, CHINESE, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "results" / "README.md"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MACHINE = "cpu-amd-epyc-2c"
OF_OTHERS = {"--exclusive"}
"""Options of other programs that the pages name."""
ENDS = {"python": ".py", "toml": ".toml", "csv": ".csv", "dockerfile": "Dockerfile"}
"""How files end whose text is a block of code, by its language."""
MEASURED_ELSEWHERE = {
    "run lenet_mnist": "tests/cli/test_measuring.py",
    "run lenet_mnist --results /results/local": "tests/cli/test_measuring.py",
    "run lenet_mnist --slurm partition=gpu,time=60 --results results/cluster": (
        "tests/measure/cluster/test_slurm_jobs.py"
    ),
    "run lenet_mnist --ray 10.0.0.1:6379": "tests/measure/cluster/test_ray_cluster.py",
    "run lenet_mnist --multihost --coordinator 10.0.0.1:8476 --processes 2 --process 0": (
        "tests/measure/cluster/test_multihost.py"
    ),
    f"run lenet_mnist --convergence-from results/published/lenet_mnist/{MACHINE}": "tests/cli/test_measuring.py",
    f"run lenet_mnist --results results/here --continue-from results/local/lenet_mnist/{MACHINE}": (
        "tests/cli/test_measuring.py"
    ),
    "run lenet_digits --stages throughput --results baseline": "tests/measure/throughput/test_rounds.py",
    "run lenet_digits --stages throughput --results new": "tests/measure/throughput/test_rounds.py",
}
"""Commands that measure for minutes or on other machines: here they are parsed, and smaller ones run in these tests."""

BRIEFLY = """
[throughput]
rounds = 5
round_seconds = 0.001
max_batch_size = "skip"
[evaluation]
noise = false
"""
"""What a test adds to an experiment of the README, which leaves these tables out."""
FEW_SEEDS = re.compile(r"(?<=^confirm = )\d+", re.MULTILINE)


class Block(NamedTuple):
    """A block of code: its language, the file that the paragraph before it names, and its text."""

    language: str
    file: str | None
    text: str


def blocks(page: Path) -> list[Block]:
    """Return the blocks of code of a page."""
    parts = re.split(r"^```(\w*)\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = zip(parts[::3], parts[1::3], parts[2::3], strict=False)
    return [Block(language, file_named(before, language), text) for before, language, text in found]


def file_named(before: str, language: str) -> str | None:
    """Return the first file of a language that the last paragraph of a text names."""
    named = re.findall(r"`([\w.]+)`", before.rstrip().rpartition("\n\n")[2])
    return next((name for name in named if name.endswith(ENDS.get(language, "\n"))), None)


def lines(page: Path) -> list[list[str]]:
    """Return the words of each command in the blocks of a page, without comments and variables of the environment."""
    shell = (block.text for block in blocks(page) if block.language == "sh")
    typed = (shlex.split(line, comments=True) for text in shell for line in text.splitlines())
    return [list(words_of(words)) for words in typed if words]


def words_of(words: list[str]) -> list[str]:
    return words[1:] if re.fullmatch(r"[A-Z_]+=\S*", words[0]) else words


def mentioned(page: Path) -> list[list[str]]:
    """Return the words of each command that a page mentions between backticks."""
    named = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(page))
    begins = ("make ", "batchscale ", ".venv/bin/batchscale ", "pip install ")
    typed = [shlex.split(text) for text in named if text.startswith(begins)]
    # In the table of commands the program is left out.
    commands = re.findall(r"^\| (`.+?`) \|", prose(page), re.MULTILINE)
    verbs = [shlex.split(text) for cell in commands for text in re.findall(r"`([^`]+)`", cell)]
    typed += [["batchscale", *words] for words in verbs if words[0] in command_line.APP.commands]
    # A name alone is a mention: what it needs is shown elsewhere.
    return [[*words, "--help"] if "batchscale" in words[0] and len(words) == 2 else words for words in typed]


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def refused(words: list[str]) -> str | None:
    """Return why a command cannot be what a user types; None if nothing is wrong with it."""
    program, *rest = words
    if Path(program).name == "batchscale":
        return refused_by_the_parser(rest)
    if program == "make":
        return refused_by_make(rest)
    if program == "pip":
        return refused_extras(" ".join(rest))
    if program == "docker":
        return refused_by_the_parser(rest[rest.index("batchscale") + 1 :]) if rest[0] == "run" else None
    return None if program in (".", "python", "sed") else f"{program}: no test knows this program"


def refused_by_the_parser(words: list[str]) -> str | None:
    name, *rest = words
    if name == "COMMAND":
        return None
    try:
        with (
            command_line.APP.make_context("batchscale", words) as parent,
            command_line.APP.commands[name].make_context(name, rest, parent=parent),
        ):
            return None
    except click.exceptions.Exit:
        return None  # --help
    except click.ClickException as error:
        return f"{shlex.join(words)}: {error.format_message()}"


def refused_by_make(words: list[str]) -> str | None:
    """Let make show what it would do; a command of ours in it is parsed too."""
    makefile = (ROOT / "Makefile").read_text()
    given = [word.partition("=")[0] for word in words if "=" in word]
    if unknown := [name for name in given if f"$({name})" not in makefile]:
        return f"make: no target uses {unknown}"
    done = subprocess.run(
        ["make", "-n", "PYTHON=python3", "VENV=", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return done.stderr
    ours = re.findall(r"-m batchscale (.+)$", done.stdout, re.MULTILINE)
    found = [refused_by_the_parser(shlex.split(line)) for line in ours if line.split() != ["report"]]
    return next(filter(None, found), None)


def refused_extras(text: str) -> str | None:
    asked = {name for names in re.findall(r"\[([\w,]+)\]", text) for name in names.split(",")}
    unknown = asked - {*PROJECT["optional-dependencies"]}
    return f"{text}: pyproject.toml has no extra {sorted(unknown)}" if unknown else None


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != CHINESE], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_command_that_a_page_shows_or_mentions_is_one_that_programs_take(page):
    found = lines(page) + mentioned(page)
    assert [fault for words in found if len(words) > 1 and (fault := refused(words))] == []
    options = {flag for one in command_line.APP.commands.values() for param in one.params for flag in param.opts}
    named = set(re.findall(r"`(--[a-z-]+)", prose(page))) - OF_OTHERS
    assert named - options - {"--help"} == set()


def test_a_misspelt_command_in_a_page_is_noticed():
    for line in ("batchscale run lenet_mnist --bugdet 60", "make bech", "make bench BUGDET=60", "pip install '.[gpu]'"):
        assert refused(shlex.split(line)), line
    assert refused(["kubectl", "apply"])


def test_the_readme_names_every_command_and_installs_extras_that_exist():
    table = [words[1] for words in mentioned(README) if words[0] == "batchscale"]
    assert {*command_line.APP.commands} - {*table} == set()
    (image,) = (block.text for block in blocks(README) if block.language == "dockerfile")
    assert "[" in image
    assert refused_extras(image) is None


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """The folder of somebody who has a clone, rows of the default suite, and logs of another tool."""
    published = tmp_path / "results" / "published" / "lenet_mnist" / MACHINE
    shutil.copytree(ROOT / "results" / "published" / "lenet_mnist" / MACHINE, published)
    own = tmp_path / "results" / "local" / "lenet_mnist" / "own-machine"
    own.mkdir(parents=True)
    for name in ("experiment.toml", "machine.json", "throughput.jsonl", "convergence.jsonl"):
        (own / name).write_text((published / name).read_text().replace(MACHINE, own.name))
    for name, seed in (("baseline", 0), ("new", 1)):
        simulated_folder.write(tmp_path / name / "lenet_digits" / "gate", batch_sizes=(16, 64, 256), seed=seed)
    curves = (
        f"{b}-{s},{b},0.1,{s},{step},{4.28 - step * b**0.25 / 600 + s / 50},{step * 0.01 * b**0.5}\n"
        for b in (8, 32, 128)
        for s in (0, 1, 2)
        for step in range(50, 500, 50)
    )
    (tmp_path / "runs.csv").write_text("run,batch_size,learning_rate,seed,step,val_loss,seconds\n" + "".join(curves))
    finals = (
        f"{n},{d},{rate},{b},{2 + (log2(b / 32) ** 2 + log2(rate / 0.1) ** 2) / 100 + n / 1e9}\n"
        for n in (1e8, 2e8)
        for d in (1e9, 2e9)
        for rate in (0.05, 0.1, 0.2)
        for b in (8, 32, 128)
    )
    (tmp_path / "finals.csv").write_text("N,D,learning_rate,batch_size,loss\n" + "".join(finals))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCHSCALE_OFFLINE", "1")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(measuring, "QUICK_MINUTES", 0.02)
    monkeypatch.setattr(plugins, "missing", lambda _: None)
    monkeypatch.setattr(planning, "planned", lambda job, _: target(job.target, sizes=(4, 16, 64)))
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("few_figures", "brief", "unoptimized")
def test_every_command_of_the_readme_runs_on_the_files_that_it_shows(stranger, capsys):
    for block in blocks(README):
        if block.file:
            (stranger / block.file).write_text(
                FEW_SEEDS.sub("2", block.text) + BRIEFLY if block.language == "toml" else block.text
            )
    left = dict(MEASURED_ELSEWHERE)
    for program, *words in lines(README):
        if program in ("python", "sed"):
            subprocess.run(["sh", "-c", shlex.join([program, *words]).replace("'>'", ">")], check=True)
        arguments = words[words.index("batchscale") + 1 :] if [program, *words][:2] == ["docker", "run"] else words
        if program not in ("batchscale", "docker") or words[0] == "build":
            continue
        if left.pop(shlex.join(arguments), None) is None:
            expanded = chain.from_iterable(sorted(map(str, Path().glob(one))) if "*" in one else [one] for one in words)
            assert command_line.run([*expanded]) == 0, (words, capsys.readouterr().err)
            assert capsys.readouterr().out, words
    assert left == {}, "these are no longer in the README"
    assert (stranger / "results" / "published" / "lenet_mnist" / "own-machine" / "report.html").is_file()


def test_the_tests_that_measure_what_is_only_parsed_here_exist():
    assert [path for path in MEASURED_ELSEWHERE.values() if not (ROOT / path).is_file()] == []


def headings(page: Path) -> list[tuple[int, str]]:
    """Return level and text of the headings of a page."""
    return [(len(level), text) for level, text in re.findall(r"^(#+) (.+)$", prose(page), re.MULTILINE)]


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for _, text in headings(page)}


def links(page: Path) -> list[str]:
    return [address for address in re.findall(r"\]\(([^)]+)\)", prose(page)) if "://" not in address]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page):
    for address in links(page):
        path, _, anchor = address.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), address
        assert not anchor or anchor in anchors(there), address


def test_both_languages_have_the_same_chapters_commands_tables_and_links():
    english, chinese = headings(README), headings(CHINESE)
    assert [level for level, _ in english] == [level for level, _ in chinese]
    assert len(anchors(CHINESE)) == len(chinese), "no two headings share an anchor"
    assert [(block.language, block.file, without_comments(block)) for block in blocks(README)] == [
        (block.language, block.file, without_comments(block)) for block in blocks(CHINESE)
    ]
    rows = re.compile(r"^\|", re.MULTILINE)
    assert len(rows.findall(prose(README))) == len(rows.findall(prose(CHINESE)))
    assert {*links(README)} - {CHINESE.name} == {*links(CHINESE)} - {README.name}
    assert CHINESE.name in links(README)
    assert README.name in links(CHINESE)


def test_both_languages_name_the_same_things_of_the_code():
    assert {*code_in(README)} ^ {*code_in(CHINESE)} == set()


def code_in(page: Path) -> list[str]:
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(page))


def without_comments(block: Block) -> list[str]:
    """Return the lines of a block as the machine reads them: remarks may be translated."""
    if block.language not in ("sh", "toml"):
        return block.text.splitlines()
    return [re.sub(r"\s*#.*", "", line) for line in block.text.splitlines()]


def test_the_version_is_the_same_wherever_it_is_written():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license"} <= {*citation}
    assert {batchscale.__version__, PROJECT["version"], citation["version"]} == {batchscale.__version__}
    assert citation["license"] == PROJECT["license"]
    assert all({"name"} <= {*author} for author in citation["authors"])


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_the_jobs_of_github_actions_make_what_the_makefile_makes(workflow):
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    commands = [shlex.split(step["run"]) for step in steps if "run" in step]
    assert commands
    assert [fault for words in commands if (fault := refused(words))] == []
    assert all(job["runs-on"] and job["timeout-minutes"] for job in jobs.values())
