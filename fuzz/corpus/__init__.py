"""Files that try to stall the reader, to exhaust memory or to pass as crystals, each with its expected ending."""

from typing import Final

from fuzz.corpus.builders import Rows
from fuzz.corpus.cif import CIFS
from fuzz.corpus.plausible import PLAUSIBLE
from fuzz.corpus.poscar_extxyz_json import OTHERS

HOSTILE: Final[Rows] = PLAUSIBLE | CIFS | OTHERS
