"""Cache of featurised data sets on disk.

An entry is a folder (see `storage`) under `$DEEPERGATGNN_CACHE`, else `~/.cache/deepergatgnn`. Its name is a digest of
the data, the constants of the featuriser and the version of its code. It is written beside its place and renamed, so
that it is complete or absent. If it cannot be written, the graphs are made again each time.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deepergatgnn import __version__
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.training.data.catalogue import locate, read_dataset
from deepergatgnn.training.data.dataset import PreparedDataset
from deepergatgnn.training.data.featurize import FEATURISER_VERSION, Chunk, featurise
from deepergatgnn.training.data.graph_arrays import PackedCells, PackedGraphs, join
from deepergatgnn.training.data.readers.folders import TABLES, structure_files, table_of
from deepergatgnn.training.data.readers.matminer_sets import is_set_name
from deepergatgnn.training.data.readers.rows import Dataset
from deepergatgnn.training.data.readers.tables import named_files
from deepergatgnn.training.data.row_warnings import by_kind
from deepergatgnn.training.data.storage import FORMAT, DamagedFolderError, FolderWriter, read_prepared

CACHE_VARIABLE = "DEEPERGATGNN_CACHE"
log = logging.getLogger(__name__)


def prepared_dataset(name: str, config: GraphConfig) -> PreparedDataset:
    """Return a data set with its graphs: from the cache, or read, featurised and cached.

    Args:
        name: as in `read_dataset`.
        config: constants of the featuriser.

    Raises:
        ConfigError: if the data set does not exist.
    """
    read = read_dataset(name) if is_set_name(name) else None  # only its loader can detect a change
    content = [[read.name, read.sha256]] if read else _content(locate(name))
    folder = cache_folder() / f"{content[0][0].partition('.')[0]}-{_key(content, config)}"
    try:
        return read_prepared(folder)
    except DamagedFolderError as error:
        if folder.exists():
            log.warning("%s; rebuilding the cache entry", error)
    try:
        with _locked(folder):
            with suppress(DamagedFolderError):  # built by another process in the meantime
                return read_prepared(folder)
            read = read or read_dataset(name)
            _build(read, config, folder)
            return read_prepared(folder)
    except (OSError, DamagedFolderError) as error:
        log.warning(
            "the cache of graphs in %s is not writable, graphs are made again each time: %s", folder.parent, error
        )
    return prepare(read or read_dataset(name), config)


def prepare(dataset: Dataset, config: GraphConfig, processes: int | None = None) -> PreparedDataset:
    """Featurise all rows in memory; rows without a graph are added to `refused`."""
    chunks = list(_shown(featurise(dataset.rows, config, processes), dataset))
    arrays = join([chunk.arrays for chunk in chunks])
    return replace(_table(dataset, config, chunks), graphs=PackedGraphs(arrays), cells=PackedCells(arrays))


def cache_folder() -> Path:
    """Return the folder of the cache."""
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepergatgnn"


def _key(content: list[list[str]], config: GraphConfig) -> str:
    """Digest of everything that determines an entry."""
    code = [__version__, FEATURISER_VERSION, FORMAT]
    return hashlib.sha256(json.dumps([content, asdict(config), code], sort_keys=True).encode()).hexdigest()[:32]


def _content(path: Path) -> list[list[str]]:
    """Return the name of a data set, and the names and sha256 of all files that it may be read from."""
    if path.is_dir():
        path = table_of(path) or path
    if path.name in TABLES:  # the files that it names are beside or below it
        found, files = [[path.resolve().parent.name, path.name]], [path, *structure_files(path)]
    elif path.is_dir():
        found, files = [[path.resolve().name, ""]], sorted(path.iterdir())
    else:
        found, files = [[path.name, ""]], [path, *named_files(path)]
    for each in files:
        if each.is_file():
            with each.open("rb") as file:
                found.append([os.path.relpath(each, path.parent), hashlib.file_digest(file, "sha256").hexdigest()])
    return found


def _build(dataset: Dataset, config: GraphConfig, folder: Path) -> None:
    """Write an entry beside its place and rename it."""
    for abandoned in folder.parent.glob(f".{folder.name}.*.part"):  # of a process that was killed while writing
        shutil.rmtree(abandoned, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(".part", f".{folder.name}.", folder.parent))
    try:
        writer = FolderWriter(temporary)
        try:
            chunks = []
            for chunk in _shown(featurise(dataset.rows, config), dataset):
                writer.append(chunk.arrays)
                chunks.append(replace(chunk, arrays={}))
            writer.close(_table(dataset, config, chunks))
        finally:
            writer.discard()
        if folder.exists():
            folder.rename(temporary / "damaged")  # processes that have mapped it keep their mapping
            shutil.rmtree(temporary / "damaged")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock an entry for one process; the system releases the lock of a killed process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _table(dataset: Dataset, config: GraphConfig, chunks: Sequence[Chunk]) -> PreparedDataset:
    """Collect the columns of the rows, without graphs and cells."""
    targets = [row for chunk in chunks for row in chunk.targets]
    fields = [row for chunk in chunks for row in chunk.fields]
    warned = (pair for chunk in chunks for pair in zip(chunk.ids, chunk.warnings, strict=True))
    keys, names = sorted({key for row in targets for key in row}), sorted({name for row in fields for name in row})
    return PreparedDataset(
        name=dataset.name,
        sha256=dataset.sha256,
        graph=config,
        ids=[row_id for chunk in chunks for row_id in chunk.ids],
        formulas=[formula for chunk in chunks for formula in chunk.formulas],
        columns={key: np.array([row.get(key, np.nan) for row in targets], dtype=np.float64) for key in keys},
        fields={name: [row.get(name) for row in fields] for name in names},
        graphs=(),
        cells=(),
        refused=(*dataset.refused, *(refusal for chunk in chunks for refusal in chunk.refused)),
        warnings=by_kind(warned),
    )


def _shown(chunks: Iterable[Chunk], dataset: Dataset) -> Iterator[Chunk]:
    """Yield the chunks with a progress bar on a terminal."""
    with tqdm(total=len(dataset.rows), desc=f"graphs of {dataset.name}", unit="crystals", disable=None) as bar:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk.ids) + len(chunk.refused))
