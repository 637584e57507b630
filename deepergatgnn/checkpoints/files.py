"""A checkpoint on disk: manifest, weights of each member, card, plots. The kernel's only file I/O, without torch.

`model.safetensors` holds the first network and the domain score's arrays, `model-2.safetensors` the second network of
an ensemble, and so on; `card.md` may show images that lie beside it. The manifest has the sha256 of each of these; its
own is in `VERSION.sha256` beside the folder, as `sha256sum` writes it. A folder without one, as copies and the oldest
versions have none, is read too.

Nothing else is ever read as a model: no pickle, no code. `weights` makes a network of what is read here.
"""

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from deepergatgnn.checkpoints.manifest import Manifest, migrate
from deepergatgnn.errors import ArtifactError

MANIFEST, WEIGHTS, CARD = "manifest.json", "model.safetensors", "card.md"
IMAGE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\.png")
LARGEST_MANIFEST, LARGEST_FILE = 64 * 2**20, 8 * 2**30  # bytes
DIGEST_KEPT = 32  # hexadecimal digits of a manifest's sha256 in the identity of a version
# A FIFO without a writer is opened without waiting for one, and a link is not followed.
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


@dataclass(frozen=True)
class Version:
    """A version on disk.

    Attributes:
        manifest: of it.
        digest: sha256 of the manifest's bytes, which names the sha256 of every other file.
    """

    manifest: Manifest
    digest: str

    @property
    def identity(self) -> str:
        """NAME@VERSION:DIGEST, the same for the same weights only."""
        return f"{self.manifest.reference}:{self.digest[:DIGEST_KEPT]}"


def read_bytes(path: Path, at_most: int) -> bytes:
    """Read a regular file without blocking; refuse a link, a FIFO, a device or a folder.

    Raises:
        FileNotFoundError: if it does not exist.
        OSError: if it is no regular file, cannot be read, or is larger than `at_most` bytes.
    """
    try:
        descriptor = os.open(path, _OPEN)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link, not a file") from None
        raise
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if found.st_size > at_most:
            raise OSError(errno.EFBIG, f"it has {found.st_size} bytes, at most {at_most} are read")
        return file.read(at_most)


def weight_files(members: int) -> list[str]:
    """Names of the weight files of an ensemble of so many members."""
    return [WEIGHTS, *(f"model-{member}.safetensors" for member in range(2, members + 1))]


def check_names(place: str, names: Collection[str], members: int) -> None:
    """Check the names of a checkpoint's files, without the manifest; `place` is for the message.

    Raises:
        ArtifactError: if one is missing, or is none of a checkpoint's.
    """
    needed = {*weight_files(members), CARD}
    if missing := needed - set(names):
        raise ArtifactError(f"{place}: a checkpoint of {members} members needs {sorted(missing)}")
    if unexpected := {name for name in names if name not in needed and not IMAGE.fullmatch(name)}:
        raise ArtifactError(
            f"{place}: {sorted(unexpected)} is no file of a checkpoint: it has {sorted(needed)} and .png images"
        )


def digest(content: bytes) -> str:
    """sha256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def digest_path(folder: Path) -> Path:
    """Path of the file with the sha256 of the manifest: beside the folder as named, whether or not that is a link."""
    whole = Path(os.path.abspath(folder))  # noqa: PTH100 - `resolve` would follow a link
    return whole.with_name(f"{whole.name}.sha256")


def digest_line(folder: Path, manifest: bytes) -> str:
    """Content of that file."""
    return f"{digest(manifest)}  {digest_path(folder).stem}/{MANIFEST}\n"


def _check_digest(folder: Path, manifest: bytes) -> None:
    """Compare the manifest with its sha256 beside the folder and, if the folder is a link, beside its target."""
    for place in dict.fromkeys((folder, folder.resolve())):
        try:
            found = read_bytes(digest_path(place), LARGEST_MANIFEST)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ArtifactError(f"{folder.name}.sha256 cannot be read: {error.strerror}") from None
        if found != digest_line(place, manifest).encode():
            raise ArtifactError(
                f"{folder.name}/{MANIFEST} does not have the sha256 of {folder.name}.sha256: fetch both again"
            )


def read_manifest(folder: Path) -> Manifest:
    """Read and check a manifest alone; needs the folder's JSON, and its sha256 beside the folder if there is one.

    Raises:
        ArtifactError: if it is missing, altered, damaged, or of an unknown schema or architecture.
    """
    return read_version(folder).manifest


def read_version(folder: Path) -> Version:
    """Read and check a manifest, as `read_manifest`, with its digest.

    Raises:
        ArtifactError: as `read_manifest`.
    """
    try:
        content = read_bytes(folder / MANIFEST, LARGEST_MANIFEST)
        _check_digest(folder, content)
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
        manifest = Manifest.model_validate(migrate(document))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{folder.name}/{MANIFEST}: {where}: {first['msg']}") from None
    if not manifest.golden:
        raise ArtifactError(
            f"{folder.name}/{MANIFEST}: golden is empty: without a golden crystal it cannot be checked whether "
            "it computes what it should; train and publish it again"
        )
    return Version(manifest, digest(content))


def verify_files(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    """Read every file the manifest names and compare its sha256.

    Returns:
        Content by file name.

    Raises:
        ArtifactError: if a file is missing, altered, or not one of a checkpoint's.
    """
    check_names(f"{folder.name}/{MANIFEST}", manifest.files, manifest.members)
    try:
        present = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise ArtifactError(f"{folder.name} cannot be read: {error.strerror}") from None
    if unexpected := present - {*manifest.files, MANIFEST}:
        raise ArtifactError(f"{folder.name} holds {sorted(unexpected)}, which its manifest does not list")
    contents = {}
    for name, expected in manifest.files.items():
        try:
            contents[name] = read_bytes(folder / name, LARGEST_FILE)
        except OSError as error:
            raise ArtifactError(f"{folder.name}/{name} is missing or cannot be read: {error.strerror}") from None
        if digest(contents[name]) != expected:
            raise ArtifactError(f"{folder.name}/{name} does not have the sha256 of its manifest: fetch it again")
    return contents
