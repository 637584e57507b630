"""Limits of a structure, with their defaults."""

from typing import Final

from pydantic import BaseModel, ConfigDict, Field


class StructureLimits(BaseModel):
    """Limits of a structure; beyond them it is refused with a `StructureError`.

    The defaults leave a margin around the computed crystals, slabs and boxed clusters of training sets: their
    volumes run from 5.4 to 800 Å³ per atom, their cell vectors from 2.3 to 131 Å; the H₂ molecule is 0.74 Å long.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(default=4 * 1024 * 1024, ge=1, description="longest text, in bytes of UTF-8")
    max_atoms: int = Field(default=2000, ge=1, description="most atoms in the cell, symmetry expanded")
    max_pairs: int = Field(default=1_000_000, ge=1, description="most pairs of atoms within 8 Å in an uneven cell")
    min_distance: float = Field(default=0.5, gt=0, description="shortest distance of two atoms or images, Å")
    min_period: float = Field(default=1.0, gt=0, description="shortest lattice translation, Å")
    max_length: float = Field(default=1000.0, gt=0, description="longest cell vector, Å")
    min_volume_per_atom: float = Field(default=2.0, gt=0, description="denser is `too_dense`, Å³")
    max_volume_per_atom: float = Field(default=5000.0, gt=0, description="emptier is `too_sparse`, Å³")


DEFAULT_LIMITS: Final = StructureLimits()
