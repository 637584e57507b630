"""A checkpoint on disk: manifest, weights of each member, card, plots. The kernel's only file I/O, without torch.

`model.safetensors` holds the first network and the domain score's arrays, `model-2.safetensors` the second network of
an ensemble, and so on; `card.md` may show images that lie beside it. The manifest has the sha256 of each of these; its
own is in `VERSION.sha256` beside the folder, as `sha256sum` writes it. A folder without one, as copies and the oldest
versions have none, is read too.

Nothing else is ever read as a model: no pickle, no code. `weights` makes a network of what is read here.
"""

import hashlib
import json
import re
from collections.abc import Collection
from pathlib import Path

from pydantic import ValidationError

from deepergatgnn.errors import ArtifactError
from deepergatgnn.manifest import Manifest, migrate

MANIFEST, WEIGHTS, CARD = "manifest.json", "model.safetensors", "card.md"
IMAGE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\.png")


def weight_files(members: int) -> list[str]:
    """Names of the files of weights of an ensemble, a single network being one of one."""
    return [WEIGHTS, *(f"model-{member}.safetensors" for member in range(2, members + 1))]


def check_names(place: str, names: Collection[str], members: int) -> None:
    """Check the names of a checkpoint's files, without the manifest; `place` is for the message.

    Raises:
        ArtifactError: if one is missing, or is none of a checkpoint's.
    """
    needed = {*weight_files(members), CARD}
    if missing := needed - set(names):
        raise ArtifactError(f"{place}: a checkpoint of {members} members needs {sorted(missing)}")
    if strangers := {name for name in names if name not in needed and not IMAGE.fullmatch(name)}:
        raise ArtifactError(
            f"{place}: {sorted(strangers)} is no file of a checkpoint: it has {sorted(needed)} and .png images"
        )


def digest(content: bytes) -> str:
    """sha256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def seal_path(folder: Path) -> Path:
    """Where the sha256 of a manifest is."""
    whole = folder.resolve()
    return whole.with_name(f"{whole.name}.sha256")


def seal(folder: Path, manifest: bytes) -> str:
    """What is to be there."""
    return f"{digest(manifest)}  {folder.resolve().name}/{MANIFEST}\n"


def _check_seal(folder: Path, manifest: bytes) -> None:
    try:
        found = seal_path(folder).read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ArtifactError(f"{folder.name}.sha256 cannot be read: {error.strerror}") from None
    if found != seal(folder, manifest).encode():
        raise ArtifactError(
            f"{folder.name}/{MANIFEST} does not have the sha256 of {folder.name}.sha256: fetch both again"
        )


def read_manifest(folder: Path) -> Manifest:
    """Read and check a manifest alone; needs the folder's JSON, and its sha256 beside the folder if there is one.

    Raises:
        ArtifactError: if it is missing, altered, damaged, or of an unknown schema or architecture.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
        _check_seal(folder, content)
        document = json.loads(content)
    except FileNotFoundError:
        raise ArtifactError(f"{folder.name} has no {MANIFEST}: this is not a checkpoint folder") from None
    except OSError as error:
        raise ArtifactError(f"{folder.name}/{MANIFEST} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{folder.name}/{MANIFEST} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ArtifactError(f"{folder.name}/{MANIFEST} is not a JSON object")
    try:
        return Manifest.model_validate(migrate(document))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{folder.name}/{MANIFEST}: {where}: {first['msg']}") from None


def verify_files(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """Read every file the manifest names and compare its sha256.

    Returns:
        Content by file name.

    Raises:
        ArtifactError: if a file is missing, altered, or not one of a checkpoint's.
    """
    check_names(f"{folder.name}/{MANIFEST}", manifest.files, manifest.members)
    present = {path.name for path in folder.iterdir()}
    if strangers := present - {*manifest.files, MANIFEST}:
        raise ArtifactError(f"{folder.name} holds {sorted(strangers)}, which its manifest does not list")
    contents = {}
    for name, expected in manifest.files.items():
        try:
            contents[name] = (folder / name).read_bytes()
        except OSError:
            raise ArtifactError(f"{folder.name}/{name} is missing or cannot be read") from None
        if digest(contents[name]) != expected:
            raise ArtifactError(f"{folder.name}/{name} does not have the sha256 of its manifest: fetch it again")
    return contents
