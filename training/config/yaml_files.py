"""YAML files: reading, and error messages with the place, the value and the known keys."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ValidationError

from deepergatgnn.errors import ConfigError
from deepergatgnn.nn.config import OneOf

UNKNOWN = {"extra_forbidden", "unexpected_keyword_argument"}
Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping of a YAML file.

    Raises:
        ConfigError: if it cannot be read, is not YAML, or is not a mapping.
    """
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is not a mapping of options: write lines of `key: value`")
    return document


def validated(model: type[Model], document: Any, where: Path | str) -> Model:
    """Validate a document.

    Raises:
        ConfigError: with the place and the reason of every error.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{where}: {reasons(error, model)}") from None


def reasons(error: ValidationError, model: type[BaseModel]) -> str:
    """Describe all errors in one line; for an unknown or missing key list the keys of its section."""
    return "; ".join(_reason(item["loc"], item["type"], item["msg"], model) for item in error.errors())


def nearest(name: str, known: Sequence[str]) -> str:
    """Return a question that suggests the nearest known name; empty if none is near."""
    lower = {each.lower(): each for each in reversed(known)}
    found = get_close_matches(name.lower(), lower, n=1)
    return f"did you mean {lower[found[0]]!r}? " if found else ""


def _reason(loc: Sequence[int | str], kind: str, message: str, model: type[BaseModel]) -> str:
    place = ".".join(map(str, loc)) or "file"
    if kind in UNKNOWN:
        keys = _keys(model, loc[:-1])
        section = ".".join(map(str, loc[:-1])) or "the file"
        hint = nearest(str(loc[-1]), keys)
        return f"{place} is not a known key: {hint}{section} may have {', '.join(keys)}"
    if kind == "missing":
        keys = _keys(model, loc[:-1])
        section = ".".join(map(str, loc[:-1])) or "the file"
        return f"{place} is missing ({message}): {section} may have {', '.join(keys)}"
    return f"{place}: {message}"


def _keys(annotation: Any, loc: Sequence[int | str]) -> list[str]:
    """Return the keys of the section at a place of a model; empty if the place is not a section."""
    for part in loc:
        if (branch := _branches(annotation).get(str(part))) is not None:
            annotation = branch
            continue
        section = _section(annotation)
        if section is None:
            return []
        is_item = isinstance(part, int) or part == section.__name__  # item of a list, or branch of a union
        annotation = section if is_item else _types(section).get(str(part))
    section = _section(annotation)
    return [] if section is None else list(_types(section))


def _branches(annotation: Any) -> Mapping[str, Any]:
    """The classes by kind of a part of the network; none of other annotations."""
    return next((each.branches for each in get_args(annotation)[1:] if isinstance(each, OneOf)), {})


def _section(annotation: Any) -> type[Any] | None:
    """Return the model or dataclass of an annotation, also within a list, a union or metadata."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        return annotation
    if get_origin(annotation) in {Annotated, Union, types.UnionType, tuple, list, dict}:
        return next((found for each in get_args(annotation) if (found := _section(each))), None)
    return None


def _types(section: type[Any]) -> dict[str, Any]:
    """Return the keys of a section in order, with the types of their values."""
    if issubclass(section, BaseModel):
        return {name: field.annotation for name, field in section.model_fields.items()}
    hints = get_type_hints(section, include_extras=True)
    return {field.name: hints[field.name] for field in fields(section)}
