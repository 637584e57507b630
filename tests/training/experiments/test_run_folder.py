"""The folder of a run: locked by one process, its files written atomically."""

from pathlib import Path

import pytest

from deepergatgnn.errors import ConfigError
from deepergatgnn.training.files import locked, write_whole


def test_a_folder_is_held_by_one_process_and_let_go(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ConfigError, match="another process uses"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_whole(path, b"old")
    with pytest.raises(TypeError):
        write_whole(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    write_whole(path, b"new")
    assert [each.name for each in path.parent.iterdir()] == ["file"]
    assert path.read_bytes() == b"new"
