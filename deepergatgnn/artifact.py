"""A checkpoint on disk: manifest.json, model.safetensors, card.md. The kernel's only file I/O, without torch.

Nothing else is ever read as a model: no pickle, no code. `weights` makes a network of what is read here.
"""

import hashlib
import json
from pathlib import Path

from pydantic import ValidationError

from deepergatgnn.errors import ArtifactError
from deepergatgnn.manifest import Manifest, migrate

MANIFEST, WEIGHTS, CARD = "manifest.json", "model.safetensors", "card.md"
FILES = frozenset({MANIFEST, WEIGHTS, CARD})


def digest(content: bytes) -> str:
    """sha256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read and check a manifest alone; needs the folder's JSON only.

    Raises:
        ArtifactError: if it is missing, damaged, or of an unknown schema or architecture.
    """
    try:
        document = json.loads((folder / MANIFEST).read_bytes())
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
    present = {path.name for path in folder.iterdir()}
    if strangers := present - FILES:
        raise ArtifactError(f"{folder.name} holds {sorted(strangers)}: a checkpoint has {sorted(FILES)} only")
    if set(manifest.files) != FILES - {MANIFEST}:
        raise ArtifactError(f"{folder.name}/{MANIFEST} must list the sha256 of {WEIGHTS} and {CARD}")
    contents = {}
    for name, expected in manifest.files.items():
        try:
            contents[name] = (folder / name).read_bytes()
        except OSError:
            raise ArtifactError(f"{folder.name}/{name} is missing or cannot be read") from None
        if digest(contents[name]) != expected:
            raise ArtifactError(f"{folder.name}/{name} does not have the sha256 of its manifest: fetch it again")
    return contents
