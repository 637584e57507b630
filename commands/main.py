"""The console script `deepergatgnn`."""

import logging
import sys
from typing import Annotated

import typer

from deepergatgnn import __version__
from deepergatgnn.commands import datasets, evaluation, experiments, keys, models, predict, serve, train
from deepergatgnn.environment import read_env_file
from deepergatgnn.errors import ConfigError, DeeperGATGNNError, ModelNotFoundError, StructureError

app = typer.Typer(
    name="deepergatgnn",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
WRONG_INPUT, FAILURE = 2, 1
# Errors of a file or folder that the user named; other system errors, such as a full disk, are failures.
WRONG_PATHS = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
OURS = frozenset({"deepergatgnn"})
# Extras of the distribution that each command needs; all other commands need `training`.
EXTRAS = {
    "predict": "inference",
    "models": "inference",
    "serve": "inference,service",
    "worker": "inference,service",
    "keys": "service",
}


def _version(show: bool) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Crystal properties with DeeperGATGNN: train, predict, serve.

    Example: deepergatgnn predict examples/ZrO2.cif

    Exit codes: 0 done, 2 wrong input, 1 failure.
    """


app.command("train")(train.train)
app.command("cross-validate")(experiments.cross_validate)
app.command("sweep")(experiments.sweep)
app.command("evaluate")(evaluation.evaluate)
app.command("compare")(evaluation.compare)
app.command("predict")(predict.predict)
app.command("serve")(serve.serve)
app.command("worker")(serve.worker)
app.add_typer(models.app, name="models")
app.add_typer(datasets.app, name="datasets")
app.add_typer(keys.app, name="keys")


def main() -> None:
    """Run a command; exit with 2 for wrong input and 1 for failure, without a stack trace."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        read_env_file()
        app()
    except ModuleNotFoundError as error:
        _stop(_missing_library(error, sys.argv[1:2]), WRONG_INPUT)
    except (ConfigError, ModelNotFoundError, StructureError) as error:
        _stop(error, WRONG_INPUT)
    except DeeperGATGNNError as error:
        _stop(error, FAILURE)
    except OSError as error:
        _stop(_describe(error), WRONG_INPUT if isinstance(error, WRONG_PATHS) else FAILURE)


def _describe(error: OSError) -> str:
    return str(error) if error.filename is None else f"{error.filename}: {error.strerror}"


def _missing_library(error: ModuleNotFoundError, command: list[str]) -> Exception:
    """Return the error that names the extra to install; a missing module of this project is raised."""
    missing = (error.name or "").partition(".")[0]
    if not missing or missing in OURS:
        raise error
    name = command[0] if command else ""
    return ConfigError(f"{name} needs {missing}: pip install 'deepergatgnn[{EXTRAS.get(name, 'training')}]'")


def _stop(error: Exception | str, code: int) -> None:
    print(f"deepergatgnn: {error}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
