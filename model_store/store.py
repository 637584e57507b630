"""The folder of checkpoints: `NAME/VERSION/` immutable, `NAME/VERSION.sha256` and `NAME/production` one line each.

`NAME/history` names the versions that were in production, `NAME/deleted` those that are gone: no other version ever
takes their number, for who kept a value that one of them gave must not take it for another's.

Needs no torch.
"""

import re
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from deepergatgnn.artifact import MANIFEST, read_manifest, seal, seal_path, verify_files
from deepergatgnn.checkpoints import PRODUCTION, SHIPPED, split_reference
from deepergatgnn.errors import ArtifactError, ConfigError, ModelNotFoundError
from deepergatgnn.manifest import NAME_PATTERN, VERSION_PATTERN, Manifest

HISTORY, DELETED = "history", "deleted"


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
        if not self.root.is_dir():
            return []
        return sorted(
            path.name
            for path in self.root.iterdir()
            if re.fullmatch(NAME_PATTERN, path.name) and path.is_dir() and self._versions(path)
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
        try:
            version = (self.root / name / PRODUCTION).read_text("utf-8").strip()
        except FileNotFoundError:
            version = ""
        if version not in versions:
            raise ModelNotFoundError(f"model {name!r} has no version in production: promote one of {versions}")
        return version

    def preferred(self, name: str) -> list[str]:
        """Versions to serve by default, best first: that in production, then those that were before it.

        Raises:
            ModelNotFoundError: as `production`.
        """
        known, history = self.versions(name), self.root / name / HISTORY
        before = history.read_text("utf-8").split() if history.exists() else []
        return [version for version in dict.fromkeys([self.production(name), *reversed(before)]) if version in known]

    def folder(self, reference: str) -> Path:
        """The folder of NAME (its production version) or NAME@VERSION.

        Raises:
            ModelNotFoundError: if it is not there.
        """
        name, version = split_reference(reference)
        if version is None:
            version = self.production(name)
        elif version not in self.versions(name):
            raise ModelNotFoundError(f"model {name!r} has no version {version}: it has {self.versions(name)}")
        return self.root / name / version

    def manifest(self, reference: str) -> Manifest:
        """The checked manifest of NAME or NAME@VERSION.

        Raises:
            ModelNotFoundError: if it is not there.
            ArtifactError: if it is damaged or says it is another model.
        """
        folder = self.folder(reference)
        manifest = read_manifest(folder)
        _check_identity(manifest, folder.parent.name, folder.name)
        return manifest

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
        versions = sorted({*self._versions(folder), *_lines(folder / DELETED)}, key=_order)
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
            _replace(seal_path(final), seal(final, files[MANIFEST]))
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
        if (folder / PRODUCTION).exists():
            before = (folder / PRODUCTION).read_text("utf-8")
            if before.strip() == version:
                return
            with (folder / HISTORY).open("a", encoding="utf-8") as history:
                history.write(before)
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
        history = (folder / HISTORY).read_text("utf-8").split() if (folder / HISTORY).exists() else []
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
        doomed.rename(hidden / version)  # at once, so that nobody finds a part of it
        seal_path(doomed).unlink(missing_ok=True)
        shutil.rmtree(hidden)
        return serving

    @staticmethod
    def _versions(folder: Path) -> list[str]:
        if not folder.is_dir():
            return []
        return sorted((p.name for p in folder.iterdir() if re.fullmatch(VERSION_PATTERN, p.name)), key=_order)


def _check_identity(manifest: Manifest, name: str, version: str) -> None:
    """Refuse a manifest that speaks of another version than the folder it is in."""
    if (manifest.name, manifest.version) != (name, version):
        raise ArtifactError(f"{name}/{version} holds the manifest of {manifest.name}@{manifest.version}")


def _lines(path: Path) -> list[str]:
    """Versions in a file, a line each; none, if it is not there or holds anything else."""
    try:
        found = path.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError):
        return []
    return [line for line in found if re.fullmatch(VERSION_PATTERN, line)]


def _replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new content, never a part."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)
