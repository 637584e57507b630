"""Sizes of the network, apart from the network so that reading a manifest needs no torch."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from deepergatgnn.ranges import check_range

MOST_OUTPUTS = 64


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes of the network; the defaults are the paper's, at 20 layers.

    Attributes:
        layers: AGAT layers, each with its normalization and skip, unless they are switched off.
        channels: F.
        heads: attention heads of a layer.
        groups: groups of the differentiable group normalization.
        group_scale: its λ.
        targets: T, outputs of the head; in a training configuration one for each target, which has as many outputs as
            classes.
        dropout: on the crystal vector, in training only.
        skip: whether each layer adds to the atoms' embeddings; if not, what it gathers replaces them.
        normalization: of what each layer gathers; "none" has no such modules and no parameters for them.
        spread: whether a second head says how far each value may be off.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    layers: int = 20
    channels: int = 64
    heads: int = 4
    groups: int = 10
    group_scale: float = 0.01
    targets: int = 1
    dropout: float = 0.0
    skip: bool = True
    normalization: Literal["group", "none"] = "group"
    spread: bool = False

    def __post_init__(self) -> None:
        check_range("layers", self.layers, least=1, most=200)
        check_range("channels", self.channels, least=1, most=1024)
        check_range("heads", self.heads, least=1, most=64)
        check_range("groups", self.groups, least=1, most=256)
        check_range("group_scale", self.group_scale, least=0)
        check_range("targets", self.targets, least=1, most=MOST_OUTPUTS)
        check_range("dropout", self.dropout, least=0, below=1)
