"""Files that are meant to stall, to exhaust memory or to be believed, and how each of them ends."""

from typing import Final

from fuzz.believed import BELIEVED
from fuzz.hostile_cifs import CIFS
from fuzz.hostile_others import OTHERS
from fuzz.makers import Rows

HOSTILE: Final[Rows] = BELIEVED | CIFS | OTHERS
