"""Files of a checkpoint: manifest, weights of each member, card, plots. Needs no torch.

`model.safetensors` holds the first network and the arrays of the domain score, `model-2.safetensors` the second network
of an ensemble, and so on; `card.md` may show images beside it. The manifest lists the sha256 of each of these files;
its own sha256 is in `VERSION.sha256` beside the folder, in the format of `sha256sum`. Copies and the oldest versions
have no such file and are read without it.

No other file is read as a model: no pickle, no code. `weights` builds the network.
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
DIGEST_DIGITS = 32  # hexadecimal digits of the manifest digest in the identity of a version
# Open a FIFO without waiting for its writer, and do not follow a link.
_OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


@dataclass(frozen=True)
class Version:
    """Manifest of a version with its digest.

    Attributes:
        manifest: the checked manifest.
        digest: sha256 of the bytes of the manifest, which lists the sha256 of every other file.
    """

    manifest: Manifest
    digest: str

    @property
    def identity(self) -> str:
        """NAME@VERSION:DIGEST, which differs for different weights."""
        return f"{self.manifest.reference}:{self.digest[:DIGEST_DIGITS]}"


def read_bytes(path: Path, at_most: int) -> bytes:
    """Read a regular file without blocking; a link, a FIFO, a device or a folder is refused.

    Raises:
        FileNotFoundError: if it does not exist.
        OSError: if it is not a regular file, cannot be read, or has more than `at_most` bytes.
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
    """Return the names of the weight files of an ensemble."""
    return [WEIGHTS, *(f"model-{member}.safetensors" for member in range(2, members + 1))]


def check_names(place: str, names: Collection[str], members: int) -> None:
    """Check the names of the files of a checkpoint, except the manifest; `place` is used in the message.

    Raises:
        ArtifactError: if a file is missing or unexpected.
    """
    needed = {*weight_files(members), CARD}
    if missing := needed - set(names):
        raise ArtifactError(f"{place}: a checkpoint of {members} members needs {sorted(missing)}")
    if unexpected := {name for name in names if name not in needed and not IMAGE.fullmatch(name)}:
        raise ArtifactError(
            f"{place}: unexpected files {sorted(unexpected)}: a checkpoint has {sorted(needed)} and .png images"
        )


def digest(content: bytes) -> str:
    """Return the sha256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def manifest_digest_path(folder: Path) -> Path:
    """Return the path of the manifest digest, beside the folder; links are not resolved."""
    whole = Path(os.path.abspath(folder))  # noqa: PTH100 - `resolve` would follow a link
    return whole.with_name(f"{whole.name}.sha256")


def manifest_digest_line(folder: Path, manifest: bytes) -> str:
    """Return the content of that file."""
    return f"{digest(manifest)}  {manifest_digest_path(folder).stem}/{MANIFEST}\n"


def _check_manifest_digest(folder: Path, manifest: bytes) -> None:
    """Compare with the digest beside the folder and, if the folder is a link, with that beside its target."""
    for place in dict.fromkeys((folder, folder.resolve())):
        try:
            found = read_bytes(manifest_digest_path(place), LARGEST_MANIFEST)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ArtifactError(f"{folder.name}.sha256 cannot be read: {error.strerror}") from None
        if found != manifest_digest_line(place, manifest).encode():
            raise ArtifactError(
                f"{folder.name}/{MANIFEST} does not have the sha256 of {folder.name}.sha256: fetch both again"
            )


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest, and its digest if there is one.

    Raises:
        ArtifactError: if it is missing, altered, damaged, or of an unknown schema or architecture.
    """
    return read_version(folder).manifest


def read_version(folder: Path) -> Version:
    """Read and check the manifest; return it with its digest.

    Raises:
        ArtifactError: as `read_manifest`.
    """
    try:
        content = read_bytes(folder / MANIFEST, LARGEST_MANIFEST)
        _check_manifest_digest(folder, content)
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
    """Read every file that the manifest lists and compare its sha256.

    Returns:
        Content by file name.

    Raises:
        ArtifactError: if a file is missing, altered or unexpected.
    """
    check_names(f"{folder.name}/{MANIFEST}", manifest.files, manifest.members)
    try:
        present = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise ArtifactError(f"{folder.name} cannot be read: {error.strerror}") from None
    if unexpected := present - {*manifest.files, MANIFEST}:
        raise ArtifactError(f"{folder.name} has files that its manifest does not list: {sorted(unexpected)}")
    contents = {}
    for name, expected in manifest.files.items():
        try:
            contents[name] = read_bytes(folder / name, LARGEST_FILE)
        except OSError as error:
            raise ArtifactError(f"{folder.name}/{name} is missing or cannot be read: {error.strerror}") from None
        if digest(contents[name]) != expected:
            raise ArtifactError(f"{folder.name}/{name} does not have the sha256 of its manifest: fetch it again")
    return contents
