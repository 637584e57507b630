"""Reading YAML files, and telling what is wrong with one: the place, the value, the keys that there are."""

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
    """The mapping that a YAML file holds.

    Raises:
        ConfigError: if it cannot be read, is not YAML, or holds something else.
    """
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is not a mapping of options, lines of `key: value`")
    return document


def validated(model: type[Model], document: Any, where: Path | str) -> Model:
    """A document as a model.

    Raises:
        ConfigError: with the place and the reason of all that does not fit.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{where}: {reasons(error, model)}") from None


def reasons(error: ValidationError, model: type[BaseModel]) -> str:
    """All that does not fit, in one line; for an unknown or missing key the keys of its section."""
    return "; ".join(_reason(item["loc"], item["type"], item["msg"], model) for item in error.errors())


def nearest(name: str, known: Sequence[str]) -> str:
    """A question that names the known name nearest to a wrong one; nothing where none is near."""
    lower = {each.lower(): each for each in reversed(known)}
    found = get_close_matches(name.lower(), lower, n=1)
    return f"did you mean {lower[found[0]]!r}? " if found else ""


def _reason(loc: Sequence[int | str], kind: str, message: str, model: type[BaseModel]) -> str:
    place = ".".join(map(str, loc)) or "file"
    if kind in UNKNOWN:
        keys = _keys(model, loc[:-1])
        section = ".".join(map(str, loc[:-1])) or "the file"
        hint = nearest(str(loc[-1]), keys)
        return f"{place} is no key: {hint}{section} may have {', '.join(keys)}"
    if kind == "missing":
        keys = _keys(model, loc[:-1])
        section = ".".join(map(str, loc[:-1])) or "the file"
        return f"{place} is missing ({message}): {section} may have {', '.join(keys)}"
    return f"{place}: {message}"


def _keys(annotation: Any, loc: Sequence[int | str]) -> list[str]:
    """Keys of the section at a place of a model; none where the place is no section."""
    for part in loc:
        if (branch := _branches(annotation).get(str(part))) is not None:
            annotation = branch
            continue
        section = _section(annotation)
        if section is None:
            return []
        is_item = isinstance(part, int) or part == section.__name__  # of a list, or the branch of a union
        annotation = section if is_item else _types(section).get(str(part))
    section = _section(annotation)
    return [] if section is None else list(_types(section))


def _branches(annotation: Any) -> Mapping[str, Any]:
    """The classes by kind of a part of the network; none of other annotations."""
    return next((each.branches for each in get_args(annotation)[1:] if isinstance(each, OneOf)), {})


def _section(annotation: Any) -> type[Any] | None:
    """The model or dataclass that an annotation holds, also in a list, a union or with metadata."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or is_dataclass(annotation)):
        return annotation
    if get_origin(annotation) in {Annotated, Union, types.UnionType, tuple, list, dict}:
        return next((found for each in get_args(annotation) if (found := _section(each))), None)
    return None


def _types(section: type[Any]) -> dict[str, Any]:
    """Keys of a section, in their order, with the types of their values."""
    if issubclass(section, BaseModel):
        return {name: field.annotation for name, field in section.model_fields.items()}
    hints = get_type_hints(section, include_extras=True)
    return {field.name: hints[field.name] for field in fields(section)}
