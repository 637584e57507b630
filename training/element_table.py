"""Writes `deepergatgnn/element_features.json`, the physical properties behind the element features.

    python -m deepergatgnn.training.element_table > deepergatgnn/element_features.json

Source: the periodic table of pymatgen (MIT; Ong et al., doi:10.1016/j.commatsci.2012.10.028). A property that
it does not know is null. Run once per change of the table: checkpoints carry their own copy of the features.
"""

import json
import math
import re
import sys
import warnings

from pymatgen.core.periodic_table import Element

LAST = 108
SHELL = re.compile(r"\d([spdf])(\d+)")


def number(element: Element, name: str) -> float | None:
    """One property as a plain number, None where the table has none."""
    try:
        value = getattr(element, name)
    except (KeyError, AttributeError, ValueError):
        return None
    return None if value is None or math.isnan(float(value)) else round(float(value), 6)


def valence(element: Element) -> dict[str, int]:
    """Electrons outside the noble-gas core, by subshell."""
    counts = dict.fromkeys("spdf", 0)
    try:
        structure = element.electronic_structure
    except KeyError:  # the heaviest elements have none
        return counts
    for shell, electrons in SHELL.findall(structure.split("]")[-1]):
        counts[shell] += int(electrons)
    return counts


def row(element: Element) -> dict[str, object]:
    """The table's entry of one element; lengths in Å, energies in eV, volume in cm³/mol, temperature in K."""
    return {
        "symbol": element.symbol,
        "group": element.group,
        "period": element.row,
        "block": element.block,
        "valence": valence(element),
        "electronegativity": number(element, "X"),
        "radius": number(element, "atomic_radius") or number(element, "atomic_radius_calculated"),
        "ionization_energy": number(element, "ionization_energy"),
        "electron_affinity": number(element, "electron_affinity"),
        "molar_volume": number(element, "molar_volume"),
        "melting_point": number(element, "melting_point"),
        "mendeleev_number": number(element, "mendeleev_no"),
    }


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the table warns of every property it does not know; null says it here
        rows = [row(Element.from_Z(z)) for z in range(1, LAST + 1)]
    sys.stdout.write("[\n" + ",\n".join(json.dumps(entry) for entry in rows) + "\n]\n")
