"""Every command has help with an example that can be typed, JSON where a program may read it, and exit codes."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from deepergatgnn.commands.main import app
from tests.commands.conftest import Command

FOR_PEOPLE_ALONE = {"serve", "worker"}  # they run until they are stopped


def walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    for word, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, f"{name} {word}".strip())


ROOT = typer.main.get_command(app)
COMMANDS = dict(walk(ROOT, ""))


def parse(words: list[str]) -> click.Context:
    """As typed, but nothing is run."""
    context = ROOT.make_context("deepergatgnn", words)
    while (rest := [*context._protected_args, *context.args]) and hasattr(context.command, "resolve_command"):
        name, inner, rest = context.command.resolve_command(context, rest)
        context = inner.make_context(name, rest, parent=context)
    return context


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_can_be_typed(name: str) -> None:
    lines = [line.strip() for line in (COMMANDS[name].help or "").splitlines()]
    examples = [line.removeprefix("Example: ") for line in lines if line.startswith("Example: ")]
    assert examples, f"deepergatgnn {name} --help has no example"
    for example in examples:
        words = shlex.split(re.sub(r"^(?:[A-Z_]+=\S+ )+| < \S+$", "", example))
        assert words[0] == "deepergatgnn"
        context = parse(words[1:])
        assert context.command_path.removeprefix("deepergatgnn").strip().startswith(name)
        for word in words:
            if word.startswith(("examples/", "training/")):
                assert Path(word).exists(), word


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not hasattr(command, "commands")])
def test_a_program_can_read_the_answer(name: str) -> None:
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert ("--json" in options) == (name not in FOR_PEOPLE_ALONE)


@pytest.mark.parametrize("name", COMMANDS)
def test_everything_that_is_typed_is_explained(name: str) -> None:
    for parameter in COMMANDS[name].params:
        assert getattr(parameter, "help", None), parameter.name


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("datasets fetch elastic_tensor_2015 --out file", "file"),
        ("datasets show missing.csv", "missing.csv"),
        ("train missing.yaml", "missing.yaml: No such file"),
        ("train .", "Is a directory"),
        ("evaluate tiny-bulk-modulus missing.csv", "missing.csv"),
        ("compare nothing", "nothing"),
        ("models show nothing", "no model 'nothing'"),
        ("models promote tiny-bulk-modulus", "has no version"),
        ("keys new a/b", "'a/b' is not a valid name"),
        ("serve --port 99999", "port"),
    ],
)
def test_wrong_input_is_exit_code_2_and_a_sentence(command: Command, tmp_path: Path, typed: str, said: str) -> None:
    (tmp_path / "file").write_bytes(b"\0")
    done = command(*typed.split())
    told = done.stderr.decode()
    assert (done.returncode, done.stdout) == (2, b""), told
    assert said in told
    assert "Traceback" not in told


def test_the_commands_on_a_store_print_json(command: Command) -> None:
    [row] = json.loads(command("models", "list", "--json").stdout)
    assert (row["model"], row["production"]) == ("tiny-bulk-modulus", True)
    promoted = command("models", "promote", "tiny-bulk-modulus@1.0.0", "--json")
    assert json.loads(promoted.stdout) == {"model": "tiny-bulk-modulus", "production": "1.0.0"}
