"""Sizes of the network, apart from the network so that reading a manifest needs no torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class NetworkConfig(BaseModel):
    """Sizes of the network; the defaults are the paper's, at 20 layers.

    Attributes:
        layers: AGAT layers, each with its normalization and skip, unless they are switched off.
        channels: F.
        heads: attention heads of a layer.
        groups: groups of the differentiable group normalization.
        group_scale: its λ.
        targets: T, outputs of the head.
        dropout: on the crystal vector, in training only.
        skip: whether each layer adds to the atoms' embeddings; if not, what it gathers replaces them.
        normalization: of what each layer gathers; "none" has no such modules and no parameters for them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(default=20, ge=1, le=200)
    channels: int = Field(default=64, ge=1, le=1024)
    heads: int = Field(default=4, ge=1, le=64)
    groups: int = Field(default=10, ge=1, le=256)
    group_scale: float = Field(default=0.01, ge=0)
    targets: int = Field(default=1, ge=1, le=64)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    skip: bool = True
    normalization: Literal["group", "none"] = "group"
