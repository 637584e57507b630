"""`predict`: properties of structure files, without a server."""

import errno
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepergatgnn.commands.options import DeviceOption, JsonOption, StoreOption, device_named, open_store
from deepergatgnn.errors import ArtifactError, ConfigError, ModelNotFoundError, StructureError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.service.prediction.answers import LEVEL_PERCENT, missing_intervals, property_prediction
from deepergatgnn.uncertainty.probabilities import likeliest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deepergatgnn.predictor import Prediction, Predictor

    Vector = NDArray[np.float32]

STDIN = "-"
SUFFIXES = (".cif", ".vasp", ".poscar", ".xyz", ".extxyz", ".json")
VASP_NAMES = ("POSCAR", "CONTCAR")  # what VASP calls its files, with whatever follows
WRONG_INPUT, FAILURE = 2, 1
Result = dict[str, Any]
Problem = dict[str, str]


def predict(
    files: Annotated[
        list[str],
        typer.Argument(
            help="CIF, POSCAR, extxyz or JSON file; a folder for all such files in it and below; - for standard input.",
            metavar="FILE...",
        ),
    ],
    model: Annotated[
        list[str] | None, typer.Option(help="NAME or NAME@VERSION, repeatable. Default: all in production.")
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(
            help="Also write the crystal vectors: `files` [B], and for each NAME@VERSION float32 [B, F].",
            metavar="OUT.npz",
        ),
    ] = None,
    store: StoreOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Predict properties of structure files; unreadable and refused files are reported.

    The exit code is 2 if any file was missing, unreadable or refused, and 1 if a model failed.

    With --json it prints a list with one object a line for each file, in order and as soon as it is ready: `file`, and
    either `formula`, `predictions` and `warnings` or `error` with `code` and `detail`.

    Example: deepergatgnn predict examples/ZrO2.cif --model bulk-modulus

    Example: deepergatgnn predict relaxed/ --json --embeddings vectors.npz

    Example: deepergatgnn predict - < POSCAR
    """
    if embeddings is not None and (embeddings.is_dir() or not embeddings.parent.is_dir()):
        reason = "is a folder" if embeddings.is_dir() else "is in a folder that does not exist"
        raise ConfigError(f"{embeddings} {reason}: write the vectors elsewhere")
    predictors, worst = _load(open_store(store), model, device)
    vectors: dict[str, list[Vector]] = {predictor.manifest.reference: [] for predictor in predictors}
    predicted, count = list[str](), 0
    with _printing(as_json=as_json) as show:
        for place, problem in _with_progress(_inputs(files)):
            result, found = ({"file": _name(place), "error": problem}, []) if problem else _predict(place, predictors)
            count += 1
            if not found:
                worst = max(worst, FAILURE if result["error"]["code"] == "prediction_failed" else WRONG_INPUT)
            else:
                predicted.append(_name(place))
            if embeddings is not None and found:
                for predictor, prediction in zip(predictors, found, strict=True):
                    vectors[predictor.manifest.reference].append(prediction.embedding)
            show(result)
    if embeddings is not None:
        _write_embeddings(embeddings, predicted, vectors)
    if count > len(predicted) and count > 1:
        print(f"{len(predicted)} of {count} files predicted", file=sys.stderr)
    if worst:
        raise typer.Exit(worst)


def _load(store: ModelStore, requested: Sequence[str] | None, device: str) -> tuple[list["Predictor"], int]:
    """Load the models; return them and the exit code so far. Without names a damaged model is skipped."""
    references = dict.fromkeys(store.manifest(name).reference for name in requested or ())
    names = store.names()
    if not references and not names:
        raise ModelNotFoundError(f"there is no model in {store.root}: name another store, or train one")
    from deepergatgnn.predictor import Predictor  # imported late, so that a wrong name is reported at once

    where = device_named(device)
    if references:
        return [Predictor.load(store.folder(reference), where) for reference in references], 0
    loaded, code, problems = list[Predictor](), 0, list[str]()
    for name in names:
        try:
            loaded.append(Predictor.load(store.folder(name), where))
        except ModelNotFoundError as error:  # no version in production
            problems.append(str(error))
        except ArtifactError as error:
            problems.append(str(error))
            print(f"model {name} is skipped: {error}", file=sys.stderr)
            code = FAILURE
    if not loaded:
        reason = f"no model to predict with in {store.root}: {'; '.join(problems)}"
        raise ArtifactError(reason) if code else ModelNotFoundError(reason)
    return loaded, code


def _inputs(files: Iterable[str]) -> Iterator[tuple[str, Problem | None]]:
    """Yield each input file, or the problem of a name; a name given twice is read once."""
    for name in dict.fromkeys(files):
        if name == STDIN or not Path(name).is_dir():
            yield name, None
            continue
        count = 0
        for place, problem in _beneath(name):
            count += 1
            yield place, problem
        if not count:
            detail = f"No file beneath the folder ends in {', '.join(SUFFIXES)} or is called {' or '.join(VASP_NAMES)}."
            yield name, _problem("no_file", detail)


def _beneath(folder: str) -> Iterator[tuple[str, Problem | None]]:
    """Yield the structure files below a folder, sorted by name, and the folders that cannot be listed."""
    unlisted: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=unlisted.append):
        folders.sort()  # in place: `walk` continues in this order
        for file in sorted(files):
            if file.lower().endswith(SUFFIXES) or file.upper().startswith(VASP_NAMES):
                yield os.path.join(place, file), None  # noqa: PTH118 - as `walk` writes it
    for error in unlisted:
        yield str(error.filename), _problem("unreadable_file", f"The folder cannot be listed: {error.strerror}.")


def _predict(place: str, predictors: Sequence["Predictor"]) -> tuple[Result, list["Prediction"]]:
    """Predict one file; return its result and the predictions, none if it was refused."""
    from deepergatgnn.structures import DEFAULT_LIMITS, read_structure, read_structure_file

    try:
        if place == STDIN:
            crystal = read_structure(_standard_input(DEFAULT_LIMITS.max_bytes + 1))
        else:
            crystal = read_structure_file(place)
        found = [predictor.predict_structure(crystal) for predictor in predictors]
    except StructureError as error:
        return {"file": _name(place), "error": _problem(error.code, error.detail)}, []
    except FileNotFoundError:
        return {"file": _name(place), "error": _problem("no_file", "There is no such file.")}, []
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        why = error.strerror if isinstance(error, OSError) else error
        return {"file": _name(place), "error": _problem("unreadable_file", f"The file cannot be read: {why}.")}, []
    except (RuntimeError, MemoryError) as error:
        detail = f"The model cannot compute this crystal: {str(error).partition(chr(10))[0] or 'out of memory'}"
        return {"file": _name(place), "error": _problem("prediction_failed", detail)}, []
    for predictor, prediction in zip(predictors, found, strict=True):
        if not math.isfinite(prediction.value):
            detail = f"{predictor.manifest.reference} gives {prediction.value} for this crystal."
            return {"file": _name(place), "error": _problem("prediction_failed", detail)}, []
    predictions = [_document(predictor, prediction) for predictor, prediction in zip(predictors, found, strict=True)]
    result = {
        "file": _name(place),
        "formula": crystal.formula,
        "reduced_formula": crystal.reduced_formula,
        "n_atoms": crystal.n_atoms,
        "predictions": predictions,
        "warnings": [*crystal.warnings, *missing_intervals(predictor.manifest for predictor in predictors)],
    }
    return result, found


def _standard_input(most: int) -> bytes:
    if sys.stdin is None:  # as after `<&-`
        raise OSError(errno.EBADF, "standard input is closed")
    return sys.stdin.buffer.read(most)


def _document(predictor: "Predictor", prediction: "Prediction") -> Result:
    domain = prediction.domain
    document = property_prediction(
        predictor.manifest,
        value=prediction.value,
        low=prediction.low,
        high=prediction.high,
        in_domain=domain.in_domain,
        score=domain.score,
        reasons=domain.reasons,
        probabilities=prediction.probabilities,
    )
    if prediction.attention is None:
        return {**document, "attention": None, "attention_reason": prediction.attention_reason}
    return {**document, "attention": prediction.attention.tolist()}


def _problem(code: str, detail: str) -> Problem:
    return {"code": code, "detail": detail}


def _with_progress(inputs: Iterator[tuple[str, Problem | None]]) -> Iterator[tuple[str, Problem | None]]:
    """Yield the inputs with a progress bar, if only standard error is a terminal."""
    if sys.stdout.isatty() or not sys.stderr.isatty():
        yield from inputs
        return
    with typer.progressbar(list(inputs), label="predict", file=sys.stderr) as bar:
        yield from bar


@contextmanager
def _printing(*, as_json: bool) -> Iterator[Callable[[Result], None]]:
    """Provide the function that prints a result; JSON results form one list, one element a line."""
    if not as_json:
        yield _print_text
        return
    lines = 0

    def print_element(result: Result) -> None:
        nonlocal lines
        print(f"{',' if lines else '['}\n{json.dumps(result)}", end="", flush=True)
        lines += 1

    try:
        yield print_element
    finally:
        print("\n]" if lines else "[]")


def _name(place: str) -> str:
    """Return the name of a file as UTF-8 text."""
    return os.fsencode(place).decode("utf-8", "replace")


def _print_text(result: Result) -> None:
    file = "".join(one if one.isprintable() else "\ufffd" for one in result["file"])  # keep one line
    if error := result.get("error"):
        print(f"{file}: refused, {error['code']}: {error['detail']}", file=sys.stderr, flush=True)
        return
    for answer in result["predictions"]:
        outside = "" if answer["domain"]["in_domain"] else f"  outside: {'; '.join(answer['domain']['reasons'])}"
        if probabilities := answer.get("probabilities"):
            likely = likeliest(probabilities)
            print(
                f"{file}  {result['reduced_formula']}  {answer['property']} {likely}, probability "
                f"{probabilities[likely]:.4f}{outside}",
                flush=True,
            )
            continue
        interval = answer["interval"]
        ends = f"[{interval['low']:.4f}, {interval['high']:.4f}]" if interval else f"[no {LEVEL_PERCENT} interval]"
        print(
            f"{file}  {result['reduced_formula']}  {answer['property']} {answer['value']:.4f} "
            f"{answer['unit']} {ends}{outside}",
            flush=True,
        )
    for warning in result["warnings"]:
        print(f"{file}: {warning}", file=sys.stderr, flush=True)


def _write_embeddings(out: Path, files: Sequence[str], vectors: "Mapping[str, Sequence[Vector]]") -> None:
    """Write the vectors atomically."""
    import numpy as np

    arrays = {reference: np.array(rows, dtype=np.float32) for reference, rows in vectors.items()}
    temporary = out.with_name(f".{out.name}.{os.getpid()}.npz")  # `savez` appends a missing suffix
    try:
        np.savez(temporary, allow_pickle=False, files=np.array(files, dtype=np.str_), **arrays)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
