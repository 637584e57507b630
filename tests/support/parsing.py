"""A file parsed in this process, as a parse process does it."""

from collections.abc import Sequence

from deepergatgnn.errors import StructureError
from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.service.parsing.featurize import featurize, read_file
from deepergatgnn.service.parsing.wire import FileHeader, ParsedStructure
from deepergatgnn.structures import StructureFormat


def parse(
    source: bytes,
    file_format: StructureFormat,
    configs: Sequence[GraphConfig],
    *,
    rounds: int = 0,
    sites: bool = True,
) -> ParsedStructure:
    """Read a file and build its graphs; arguments as of `FileHeader`.

    Raises:
        StructureError: the structure is refused.
    """
    [result] = featurize([read_file(source, FileHeader(file_format, tuple(configs), rounds, sites))])
    if isinstance(result, StructureError):
        raise result
    return result
