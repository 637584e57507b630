"""Folder of checkpoints: `NAME/VERSION/` is immutable, `NAME/VERSION.sha256` and `NAME/production` have one line each.

`NAME/history` lists the versions that were in production, `NAME/deleted` the deleted versions: a version number is
never reused, so that a stored value always identifies its version.

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
    manifest_digest_line,
    manifest_digest_path,
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
    """Store of versioned checkpoints.

    Args:
        root: folder of the store; by default the checkpoints shipped with the package.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root) if root is not None else SHIPPED

    def names(self) -> list[str]:
        """Return the models that have at least one version."""
        return sorted(
            name
            for name in _folders(self.root)
            if len(name) <= LONGEST_NAME and re.fullmatch(NAME_PATTERN, name) and self._versions(self.root / name)
        )

    def versions(self, name: str) -> list[str]:
        """Return the versions of a model, oldest first.

        Raises:
            ModelNotFoundError: if the model does not exist.
        """
        versions = self._versions(self.root / split_reference(name)[0])
        if not versions:
            raise ModelNotFoundError(f"no model {name!r}: the store has {', '.join(self.names()) or 'none'}")
        return versions

    def production(self, name: str) -> str:
        """Return the default version, which is in production.

        Raises:
            ModelNotFoundError: if the model does not exist or has no version in production.
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
        """Return the content of the production pointer; empty if there is none."""
        try:
            return read_bytes(self.root / name / PRODUCTION, LONGEST_POINTER).decode("utf-8").strip()
        except FileNotFoundError:
            return ""

    def _history(self, name: str) -> list[str]:
        """Return the versions that were in production, oldest first; empty if the file cannot be read."""
        try:
            return read_bytes(self.root / name / HISTORY, LONGEST_HISTORY).decode("utf-8", "replace").split()
        except OSError:
            return []

    def preferred(self, name: str) -> list[str]:
        """Return the versions to serve by default, in order: that in production, then its predecessors.

        Raises:
            ModelNotFoundError: as `production`.
        """
        known, before = self.versions(name), self._history(name)
        return [version for version in dict.fromkeys([self.production(name), *reversed(before)]) if version in known]

    def folder(self, reference: str) -> Path:
        """Return the folder of NAME (its version in production) or NAME@VERSION.

        Raises:
            ModelNotFoundError: if it does not exist.
            ArtifactError: if it is a link, because the manifest digest in the store would belong to another folder.
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
        """Read and check the manifest of NAME or NAME@VERSION.

        Raises:
            ModelNotFoundError: if it does not exist.
            ArtifactError: if it is damaged or is the manifest of another version.
        """
        return self.version(reference).manifest

    def version(self, reference: str) -> Version:
        """Read and check the manifest of NAME or NAME@VERSION; return it with its digest.

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
            ModelNotFoundError, ArtifactError: as `manifest`, and for any altered, missing or unexpected file.
        """
        manifest = self.manifest(reference)
        verify_files(self.folder(reference), manifest)
        return manifest

    def next_version(self, name: str) -> str:
        """Return a free version number: 1.0.0, or the next minor version."""
        folder = self.root / split_reference(name)[0]
        there = [path.name for path in folder.iterdir()] if folder.is_dir() else []  # a file occupies the name too
        taken = {*(each for each in there if re.fullmatch(VERSION_PATTERN, each)), *_lines(folder / DELETED)}
        versions = sorted(taken, key=_order)
        if not versions:
            return "1.0.0"
        major, minor, _ = _order(versions[-1])
        return f"{major}.{minor + 1}.0"

    def publish(self, name: str, version: str, files: Mapping[str, bytes]) -> Path:
        """Add an immutable version, atomically. The first version of a model is put into production.

        Args:
            name: name in the manifest.
            version: version in the manifest.
            files: content of each file of the checkpoint.

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
            raise ArtifactError(f"{name}@{version} was deleted, and its number is not reused: publish under the next")
        hidden = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=final.parent))
        staging = hidden / version  # messages name the last part of the path
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
            _replace(manifest_digest_path(final), manifest_digest_line(final, files[MANIFEST]))
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        if not (final.parent / PRODUCTION).exists():
            self.promote(name, version)
        return final

    def promote(self, name: str, version: str) -> None:
        """Verify a version and put it into production.

        Raises:
            ModelNotFoundError, ArtifactError: as `verify`; production does not change then.
        """
        self.verify(f"{name}@{version}")
        folder = self.root / name
        try:
            before = self._pointer(name)
        except (OSError, UnicodeDecodeError):  # replaced; a rollback cannot return to it
            before = ""
        if before == version:
            return
        if re.fullmatch(VERSION_PATTERN, before):
            _replace(folder / HISTORY, "".join(f"{each}\n" for each in (*self._history(name), before)))
        _replace(folder / PRODUCTION, f"{version}\n")

    def rollback(self, name: str) -> str:
        """Put the previous version into production again.

        Returns:
            That version.

        Raises:
            ConfigError: if there is none.
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
        """Delete a version permanently; its number is not reused.

        Args:
            name: name of the model.
            version: version to delete.
            force: delete it even if it is in production; its predecessor, if any, is put into production.

        Returns:
            The version in production afterwards, if any.

        Raises:
            ModelNotFoundError: if the version does not exist.
            ConfigError: if it is in production and `force` is False.
            ArtifactError: if its predecessor is damaged; nothing is deleted.
        """
        folder = self.folder(f"{name}@{version}")
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
                (folder.parent / PRODUCTION).unlink()
            else:
                self.verify(f"{name}@{serving}")
                _replace(folder.parent / PRODUCTION, f"{serving}\n")
        _replace(folder.parent / DELETED, "".join(f"{each}\n" for each in [*_lines(folder.parent / DELETED), version]))
        before = [each for each in _lines(folder.parent / HISTORY) if each != version]
        while before and before[-1] == serving:
            before.pop()
        _replace(folder.parent / HISTORY, "".join(f"{each}\n" for each in before))
        hidden = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=folder.parent))
        folder.rename(hidden / version)  # atomic: a reader never finds a part of the folder
        manifest_digest_path(folder).unlink(missing_ok=True)
        shutil.rmtree(hidden)
        return serving

    @staticmethod
    def _versions(folder: Path) -> list[str]:
        return sorted((name for name in _folders(folder) if re.fullmatch(VERSION_PATTERN, name)), key=_order)


def _folders(place: Path) -> list[str]:
    """Return the names of the folders within a folder; empty if it is not a folder or cannot be read."""
    try:
        return [name for name in os.listdir(place) if os.path.isdir(place / name)]  # noqa: PTH112, PTH208 - no raise
    except OSError:
        return []


def _check_identity(manifest: Manifest, name: str, version: str) -> None:
    """Refuse a manifest whose name or version differ from those of the folder."""
    if (manifest.name, manifest.version) != (name, version):
        raise ArtifactError(f"{name}/{version} holds the manifest of {manifest.name}@{manifest.version}")


def _lines(path: Path) -> list[str]:
    """Return the versions listed in a file; empty if the file does not exist or is not text."""
    try:
        found = read_bytes(path, LONGEST_HISTORY).decode("utf-8").split()
    except (OSError, UnicodeDecodeError):
        return []
    return [line for line in found if re.fullmatch(VERSION_PATTERN, line)]


def _replace(path: Path, text: str) -> None:
    """Replace a file atomically."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)
