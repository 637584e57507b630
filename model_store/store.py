"""The folder of checkpoints: `NAME/VERSION/` immutable, `NAME/VERSION.sha256` and `NAME/production` one line each.

`NAME/history` names the versions that were in production, `NAME/deleted` those that are gone: no other version ever
takes their number, so that a stored value is never attributed to another version.

Needs no torch.
"""

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from deepergatgnn.checkpoints.files import (
    MANIFEST,
    Version,
    digest_line,
    digest_path,
    read_bytes,
    read_manifest,
    read_version,
    verify_files,
)
from deepergatgnn.checkpoints.locations import LONGEST_NAME, LONGEST_POINTER, PRODUCTION, SHIPPED, split_reference
from deepergatgnn.checkpoints.manifest import NAME_PATTERN, VERSION_PATTERN, Manifest
from deepergatgnn.errors import ArtifactError, ConfigError, ModelNotFoundError

HISTORY, DELETED = "history", "deleted"
LONGEST_HISTORY = 2**20  # bytes


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


class ModelStore:
    """One store.

    Args:
        root: its folder; the checkpoints shipped with the package, if not given.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root) if root is not None else SHIPPED

    def names(self) -> list[str]:
        """Models that have at least one version."""
        return sorted(
            name
            for name in _folders(self.root)
            if len(name) <= LONGEST_NAME and re.fullmatch(NAME_PATTERN, name) and self._versions(self.root / name)
        )

    def versions(self, name: str) -> list[str]:
        """Versions of a model, oldest first.

        Raises:
            ModelNotFoundError: if there is no such model.
        """
        versions = self._versions(self.root / split_reference(name)[0])
        if not versions:
            raise ModelNotFoundError(f"no model {name!r}: the store has {', '.join(self.names()) or 'none'}")
        return versions

    def production(self, name: str) -> str:
        """The version served by default.

        Raises:
            ModelNotFoundError: if there is no such model or none of its versions was promoted.
        """
        versions = self.versions(name)
        remedy = f"promote one of {versions} with `deepergatgnn models promote {name}@VERSION`"
        try:
            version = self._pointer(name)
        except (OSError, UnicodeDecodeError) as error:
            reason = "it is not text" if isinstance(error, UnicodeDecodeError) else error.strerror
            raise ModelNotFoundError(
                f"model {name!r} has no version in production: {remedy}; its file {PRODUCTION} cannot be read: {reason}"
            ) from None
        if version not in versions:
            found = f"; its file {PRODUCTION} names {version[:40]!r}" if version else ""
            raise ModelNotFoundError(f"model {name!r} has no version in production: {remedy}{found}")
        return version

    def _pointer(self, name: str) -> str:
        """What the file of the production pointer holds; nothing if there is none."""
        try:
            return read_bytes(self.root / name / PRODUCTION, LONGEST_POINTER).decode("utf-8").strip()
        except FileNotFoundError:
            return ""

    def _history(self, name: str) -> list[str]:
        """Versions that were in production, oldest first; a file that cannot be read has none."""
        try:
            return read_bytes(self.root / name / HISTORY, LONGEST_HISTORY).decode("utf-8", "replace").split()
        except OSError:
            return []

    def preferred(self, name: str) -> list[str]:
        """Versions to serve by default, best first: that in production, then those that were before it.

        Raises:
            ModelNotFoundError: as `production`.
        """
        known, before = self.versions(name), self._history(name)
        return [version for version in dict.fromkeys([self.production(name), *reversed(before)]) if version in known]

    def folder(self, reference: str) -> Path:
        """The folder of NAME (its production version) or NAME@VERSION.

        Raises:
            ModelNotFoundError: if it is not there.
            ArtifactError: if it is reached through a link: the seal in the store would not be that of what is read.
        """
        name, version = split_reference(reference)
        if version is None:
            version = self.production(name)
        elif version not in self.versions(name):
            raise ModelNotFoundError(f"model {name!r} has no version {version}: it has {self.versions(name)}")
        folder = self.root / name / version
        if folder.resolve() != self.root.resolve() / name / version:
            raise ArtifactError(f"{name}@{version} is reached through a link: put the folder itself into the store")
        return folder

    def manifest(self, reference: str) -> Manifest:
        """The checked manifest of NAME or NAME@VERSION.

        Raises:
            ModelNotFoundError: if it is not there.
            ArtifactError: if it is damaged or says it is another model.
        """
        return self.version(reference).manifest

    def version(self, reference: str) -> Version:
        """The checked manifest of NAME or NAME@VERSION, with its digest.

        Raises:
            ModelNotFoundError, ArtifactError: as `manifest`.
        """
        folder = self.folder(reference)
        version = read_version(folder)
        _check_identity(version.manifest, folder.parent.name, folder.name)
        return version

    def verify(self, reference: str) -> Manifest:
        """Compare every file with the sha256 of the manifest.

        Raises:
            ModelNotFoundError, ArtifactError: as `manifest`, and for any altered, missing or foreign file.
        """
        manifest = self.manifest(reference)
        verify_files(self.folder(reference), manifest)
        return manifest

    def next_version(self, name: str) -> str:
        """A free version: 1.0.0 first, then one minor up."""
        folder = self.root / split_reference(name)[0]
        there = [path.name for path in folder.iterdir()] if folder.is_dir() else []  # files are in the way as well
        taken = {*(each for each in there if re.fullmatch(VERSION_PATTERN, each)), *_lines(folder / DELETED)}
        versions = sorted(taken, key=_order)
        if not versions:
            return "1.0.0"
        major, minor, _ = _order(versions[-1])
        return f"{major}.{minor + 1}.0"

    def publish(self, name: str, version: str, files: Mapping[str, bytes]) -> Path:
        """Add a version, whole or not at all; it is never changed afterwards. The first one becomes production.

        Args:
            name: as in the manifest.
            version: as in the manifest.
            files: content of each file of a checkpoint.

        Raises:
            ArtifactError: if the version exists or the files are not a valid checkpoint.
        """
        split_reference(f"{name}@{version}")
        if MANIFEST not in files or any(Path(file).name != file for file in files):
            raise ArtifactError(f"a checkpoint is {MANIFEST} and files beside it, not {sorted(files)}")
        final = self.root / name / version
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            raise ArtifactError(f"{name}@{version} exists and is immutable: publish under the next version")
        if version in _lines(final.parent / DELETED):
            raise ArtifactError(f"{name}@{version} was deleted, and its number stays taken: publish under the next")
        hidden = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=final.parent))
        staging = hidden / version  # the last part of a path is what messages say
        try:
            staging.mkdir()
            for file, content in files.items():
                (staging / file).write_bytes(content)
                (staging / file).chmod(0o644)
            staging.chmod(0o755)
            manifest = read_manifest(staging)
            _check_identity(manifest, name, version)
            verify_files(staging, manifest)
            try:
                staging.rename(final)
            except OSError:
                if not final.exists():
                    raise
                raise ArtifactError(f"{name}@{version} was published by another process just now") from None
            _replace(digest_path(final), digest_line(final, files[MANIFEST]))
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        if not (final.parent / PRODUCTION).exists():
            self.promote(name, version)
        return final

    def promote(self, name: str, version: str) -> None:
        """Make a version the one served by default, after verifying it.

        Raises:
            ModelNotFoundError, ArtifactError: as `verify`; the version in production then stays.
        """
        self.verify(f"{name}@{version}")
        folder = self.root / name
        try:
            before = self._pointer(name)
        except (OSError, UnicodeDecodeError):  # it is replaced, and nothing can return to it
            before = ""
        if before == version:
            return
        if re.fullmatch(VERSION_PATTERN, before):
            _replace(folder / HISTORY, "".join(f"{each}\n" for each in (*self._history(name), before)))
        _replace(folder / PRODUCTION, f"{version}\n")

    def rollback(self, name: str) -> str:
        """Return to the version that was in production before.

        Returns:
            That version.

        Raises:
            ConfigError: if there was none.
        """
        self.production(name)
        folder = self.root / name
        history = self._history(name)
        if not history:
            raise ConfigError(
                f"model {name!r} had no other version in production: promote one of {self.versions(name)}"
            )
        version = history.pop()
        self.verify(f"{name}@{version}")
        _replace(folder / PRODUCTION, f"{version}\n")
        _replace(folder / HISTORY, "".join(f"{line}\n" for line in history))
        return version

    def delete(self, name: str, version: str, *, force: bool = False) -> str | None:
        """Delete a version for good; its number is not given to another one.

        Args:
            name: of the model.
            version: to delete.
            force: also if it is in production; the last one that was there before it then is, if there is any.

        Returns:
            The version in production then, if there is one.

        Raises:
            ModelNotFoundError: if it is not there.
            ConfigError: if it is in production, unless forced.
            ArtifactError: if that which would be in production then is damaged; nothing is deleted.
        """
        doomed = self.folder(f"{name}@{version}")
        try:
            serving = self.production(name)
        except ModelNotFoundError:
            serving = None
        others = [other for other in self.versions(name) if other != version]
        if serving == version:
            if not force:
                remedy = f"promote another one first ({', '.join(others)})" if others else "it is the only version"
                raise ConfigError(f"{name}@{version} is in production: {remedy}, or delete it with --force")
            serving = next((other for other in self.preferred(name) if other != version), None)
            if serving is None:
                (doomed.parent / PRODUCTION).unlink()
            else:
                self.verify(f"{name}@{serving}")
                _replace(doomed.parent / PRODUCTION, f"{serving}\n")
        _replace(doomed.parent / DELETED, "".join(f"{each}\n" for each in [*_lines(doomed.parent / DELETED), version]))
        before = [each for each in _lines(doomed.parent / HISTORY) if each != version]
        while before and before[-1] == serving:
            before.pop()
        _replace(doomed.parent / HISTORY, "".join(f"{each}\n" for each in before))
        hidden = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=doomed.parent))
        doomed.rename(hidden / version)  # atomic: a reader never finds a part of it
        digest_path(doomed).unlink(missing_ok=True)
        shutil.rmtree(hidden)
        return serving

    @staticmethod
    def _versions(folder: Path) -> list[str]:
        return sorted((name for name in _folders(folder) if re.fullmatch(VERSION_PATTERN, name)), key=_order)


def _folders(place: Path) -> list[str]:
    """Names of the folders within one; none of what is no folder or cannot be read."""
    try:
        return [name for name in os.listdir(place) if os.path.isdir(place / name)]  # noqa: PTH112, PTH208 - no raise
    except OSError:
        return []


def _check_identity(manifest: Manifest, name: str, version: str) -> None:
    """Refuse a manifest that speaks of another version than the folder it is in."""
    if (manifest.name, manifest.version) != (name, version):
        raise ArtifactError(f"{name}/{version} holds the manifest of {manifest.name}@{manifest.version}")


def _lines(path: Path) -> list[str]:
    """Versions in a file, a line each; none, if it is not there or holds anything else."""
    try:
        found = read_bytes(path, LONGEST_HISTORY).decode("utf-8").split()
    except (OSError, UnicodeDecodeError):
        return []
    return [line for line in found if re.fullmatch(VERSION_PATTERN, line)]


def _replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new content, never a part."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)
