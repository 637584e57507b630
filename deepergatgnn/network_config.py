"""Sizes of the network, apart from the network so that reading a manifest needs no torch."""

from pydantic import BaseModel, ConfigDict, Field


class NetworkConfig(BaseModel):
    """Sizes of the network; the defaults are the paper's, at 20 layers.

    Attributes:
        layers: AGAT layers, each with its normalization and skip.
        channels: F.
        heads: attention heads of a layer.
        groups: groups of the differentiable group normalization.
        group_scale: its λ.
        targets: T, outputs of the head.
        dropout: on the crystal vector, in training only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(default=20, ge=1, le=200)
    channels: int = Field(default=64, ge=1, le=1024)
    heads: int = Field(default=4, ge=1, le=64)
    groups: int = Field(default=10, ge=1, le=256)
    group_scale: float = Field(default=0.01, ge=0)
    targets: int = Field(default=1, ge=1, le=64)
    dropout: float = Field(default=0.0, ge=0, lt=1)
