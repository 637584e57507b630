"""Configuration of a network: embedding → body → attention → pooling → head; torch-free, so that manifests need none.

Each part is a small frozen dataclass whose class also names the module that implements it. A registry maps the
`kind` of a part to its class; the module is imported when a network of that kind is built. To add a part: write its
dataclass here, add it to its registry and union, and write the module that it names.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, Self

from deepergatgnn.ranges import check_range

MOST_OUTPUTS = 64
# What the symmetry reduction of a graph preserves; a body that sees more needs every atom of the cell.
REDUCIBLE = frozenset({"elements", "distances", "angles"})
_FORBID_OTHER_KEYS = {"extra": "forbid"}


@dataclass(frozen=True, kw_only=True)
class PartConfig:
    """Base of the configurations of parts.

    Attributes:
        implementation: "module:Class" of the part.
        sees: what of a crystal the part reads, beside the features of atoms: "distances", "angles", "directions", ...
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_OTHER_KEYS
    implementation: ClassVar[str]
    sees: ClassVar[frozenset[str]] = frozenset()


@dataclass(frozen=True, kw_only=True)
class ElementEmbeddingConfig(PartConfig):
    """Element, and the angles around the atom where the graph has them.

    Attributes:
        elements: "features" for physical properties of the element, "one-hot" for its identity alone.
        layers: fully connected layers on them.
        activation: after each of these layers, and of the edge embedding.
        gaussian_width: σ of the radial basis in Å; the spacing of its centres, if not given.
    """

    implementation: ClassVar[str] = "deepergatgnn.nn.embedding:ElementEmbedding"
    sees: ClassVar[frozenset[str]] = frozenset({"elements", "angles"})

    kind: Literal["elements"] = "elements"
    elements: Literal["features", "one-hot"] = "features"
    layers: int = 1
    activation: Literal["leaky_relu", "relu"] = "leaky_relu"
    gaussian_width: float | None = None

    def __post_init__(self) -> None:
        check_range("layers", self.layers, least=1, most=16)
        if self.gaussian_width is not None:
            check_range("gaussian_width", self.gaussian_width, above=0, most=20)


@dataclass(frozen=True, kw_only=True)
class BodyConfig(PartConfig):
    """Base of the configurations of bodies.

    Attributes:
        title: name of the network, for people.
        authors, doi: of its publication.
        embeds_edges: whether layers read an embedding of the radial basis [E, F] instead of the basis [E, K] itself.
        has_heads: whether `NetworkConfig.heads` means anything to it.
    """

    title: ClassVar[str]
    authors: ClassVar[str]
    doi: ClassVar[str]
    embeds_edges: ClassVar[bool] = False
    has_heads: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class AGATConfig(BodyConfig):
    """Augmented graph attention, the layer of GATGNN and DeeperGATGNN."""

    implementation: ClassVar[str] = "deepergatgnn.nn.bodies.agat:AGATLayer"
    sees: ClassVar[frozenset[str]] = frozenset({"distances"})
    title: ClassVar[str] = "DeeperGATGNN"
    authors: ClassVar[str] = "Omee et al."
    doi: ClassVar[str] = "doi:10.1016/j.patter.2022.100491"
    embeds_edges: ClassVar[bool] = True
    has_heads: ClassVar[bool] = True

    kind: Literal["agat"] = "agat"


@dataclass(frozen=True, kw_only=True)
class CGCNNConfig(BodyConfig):
    """Gated convolution of CGCNN.

    Attributes:
        aggregation: of the messages of all neighbours.
        residual: whether a layer adds its input before the normalization, as the paper writes it. With
            `NetworkConfig.skip` the input is added twice, which doubles it in every layer.
    """

    implementation: ClassVar[str] = "deepergatgnn.nn.bodies.cgcnn:CGCNNLayer"
    sees: ClassVar[frozenset[str]] = frozenset({"distances"})
    title: ClassVar[str] = "CGCNN"
    authors: ClassVar[str] = "Xie and Grossman"
    doi: ClassVar[str] = "doi:10.1103/PhysRevLett.120.145301"

    kind: Literal["cgcnn"] = "cgcnn"
    aggregation: Literal["mean", "sum"] = "mean"
    residual: bool = False


@dataclass(frozen=True, kw_only=True)
class CompositionAttentionConfig(PartConfig):
    """Global attention over atoms that sees the composition, GI M-1 of GATGNN."""

    implementation: ClassVar[str] = "deepergatgnn.nn.attention.composition:CompositionAttention"
    sees: ClassVar[frozenset[str]] = frozenset({"elements"})

    kind: Literal["composition"] = "composition"


@dataclass(frozen=True, kw_only=True)
class NoAttentionConfig(PartConfig):
    """No global attention: predictions have none."""

    implementation: ClassVar[str] = ""

    kind: Literal["none"] = "none"


@dataclass(frozen=True, kw_only=True)
class PoolingConfig(PartConfig):
    """Base of the configurations of poolings.

    Attributes:
        reads_attention: whether the pooling weights atoms by the global attention.
        intensive: whether a supercell has the same crystal vector.
        width: numbers of a crystal vector for each channel of an atom.
    """

    reads_attention: ClassVar[bool] = False
    intensive: ClassVar[bool] = True
    width: ClassVar[int] = 1


@dataclass(frozen=True, kw_only=True)
class WeightedPoolingConfig(PoolingConfig):
    """Sum over atoms, weighted by the global attention."""

    implementation: ClassVar[str] = "deepergatgnn.nn.pooling.weighted:WeightedPooling"
    reads_attention: ClassVar[bool] = True

    kind: Literal["weighted"] = "weighted"


@dataclass(frozen=True, kw_only=True)
class MeanPoolingConfig(PoolingConfig):
    """Mean over atoms."""

    implementation: ClassVar[str] = "deepergatgnn.nn.pooling.mean:MeanPooling"

    kind: Literal["mean"] = "mean"


@dataclass(frozen=True, kw_only=True)
class Set2SetConfig(PoolingConfig):
    """Set2Set.

    Attributes:
        steps: of the recurrent network.
    """

    implementation: ClassVar[str] = "deepergatgnn.nn.pooling.set2set:Set2SetPooling"
    width: ClassVar[int] = 2

    kind: Literal["set2set"] = "set2set"
    steps: int = 3

    def __post_init__(self) -> None:
        check_range("steps", self.steps, least=1, most=64)


@dataclass(frozen=True, kw_only=True)
class HeadConfig(PartConfig):
    """Fully connected layers from the crystal vector to the outputs.

    Attributes:
        layers: hidden ones.
        width: of each of these; that of the network's channels, if not given.
        activation: after each of these.
    """

    implementation: ClassVar[str] = "deepergatgnn.nn.head:Head"

    kind: Literal["linear"] = "linear"
    layers: int = 1
    width: int | None = None
    activation: Literal["softplus", "relu"] = "softplus"

    def __post_init__(self) -> None:
        check_range("layers", self.layers, least=0, most=16)
        if self.width is not None:
            check_range("width", self.width, least=1, most=4096)


EMBEDDINGS: dict[str, type[ElementEmbeddingConfig]] = {"elements": ElementEmbeddingConfig}
BODIES: dict[str, type[BodyConfig]] = {"agat": AGATConfig, "cgcnn": CGCNNConfig}
ATTENTIONS: dict[str, type[PartConfig]] = {"composition": CompositionAttentionConfig, "none": NoAttentionConfig}
POOLINGS: dict[str, type[PoolingConfig]] = {
    "weighted": WeightedPoolingConfig,
    "mean": MeanPoolingConfig,
    "set2set": Set2SetConfig,
}
HEADS: dict[str, type[HeadConfig]] = {"linear": HeadConfig}
REGISTRIES: dict[str, Mapping[str, type[PartConfig]]] = {
    "embedding": EMBEDDINGS,
    "body": BODIES,
    "attention": ATTENTIONS,
    "pooling": POOLINGS,
    "head": HEADS,
}


def part_document(part: str, value: Any) -> Any:
    """Write the name of a part as the mapping it stands for: "cgcnn" → {"kind": "cgcnn"}; leave the rest alone.

    Args:
        part: "embedding", "body", "attention", "pooling" or "head".
        value: as in a YAML file.

    Raises:
        ValueError: for a kind that the registry does not have; the message names the nearest one.
    """
    registry = REGISTRIES[part]
    if isinstance(value, str):
        value = {"kind": value}
    if isinstance(value, Mapping):
        kind = value.get("kind", next(iter(registry)))
        if kind not in registry:
            near = get_close_matches(str(kind).lower(), registry, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"no {part} {str(kind)[:40]!r}: {hint}there are {', '.join(registry)}")
        return {**value, "kind": kind}
    return value


def with_attention(network: Mapping[str, Any]) -> dict[str, Any]:
    """Add `attention: none` to options that name a pooling without attention, and leave the attention out."""
    pooling = network.get("pooling")
    known = POOLINGS.get(str(pooling.get("kind") if isinstance(pooling, Mapping) else pooling))
    if "attention" in network or known is None or known.reads_attention:
        return dict(network)
    return {**network, "attention": "none"}


@dataclass(frozen=True)
class OneOf:
    """Tells pydantic how to read and write a part: by the registry's class of its `kind`."""

    part: str

    @property
    def branches(self) -> Mapping[str, type[PartConfig]]:
        """The classes by kind."""
        return REGISTRIES[self.part]

    def __get_pydantic_core_schema__(self, _source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema  # noqa: PLC0415 - pydantic alone calls this; a bare machine has none

        registry = REGISTRIES[self.part]
        choices = {kind: handler.generate_schema(each) for kind, each in registry.items()}
        return core_schema.no_info_before_validator_function(
            lambda value: part_document(self.part, value),
            core_schema.tagged_union_schema(choices, "kind"),
            serialization=core_schema.plain_serializer_function_ser_schema(
                _serialized, info_arg=True, return_schema=core_schema.dict_schema()
            ),
        )


def _serialized(part: PartConfig, info: Any) -> dict[str, Any]:
    """The options of a part; without those at their defaults, where these are excluded, but always with its kind."""
    return {
        each.name: value
        for each in fields(part)
        if (value := getattr(part, each.name)) != each.default or each.name == "kind" or not info.exclude_defaults
    }


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """A network; the defaults are those of DeeperGATGNN at 20 layers.

    Attributes:
        layers: of the body, each with its normalization and skip, unless they are switched off.
        channels: F, of atoms.
        heads: attention heads of a layer, for bodies that have them.
        groups: groups of the differentiable group normalization.
        group_scale: its λ.
        targets: T, outputs of the head; in a training configuration one for each target, which has as many outputs as
            classes.
        dropout: on the last hidden layer of the head, in training only.
        skip: whether the output of a layer is added to its input; if not, it replaces the input.
        normalization: of the output of each layer; "none" has no such modules and no parameters for them.
        spread: whether the head predicts the scale of the error of each value.
        embedding, body, attention, pooling, head: the parts.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_OTHER_KEYS

    layers: int = 20
    channels: int = 64
    heads: int = 4
    groups: int = 10
    group_scale: float = 0.01
    targets: int = 1
    dropout: float = 0.0
    skip: bool = True
    normalization: Literal["group", "batch", "none"] = "group"
    spread: bool = False
    embedding: Annotated[ElementEmbeddingConfig, OneOf("embedding")] = field(default=ElementEmbeddingConfig())
    body: Annotated[BodyConfig, OneOf("body")] = field(default=AGATConfig())
    attention: Annotated[PartConfig, OneOf("attention")] = field(default=CompositionAttentionConfig())
    pooling: Annotated[PoolingConfig, OneOf("pooling")] = field(default=WeightedPoolingConfig())
    head: Annotated[HeadConfig, OneOf("head")] = field(default=HeadConfig())

    def __post_init__(self) -> None:
        check_range("layers", self.layers, least=1, most=200)
        check_range("channels", self.channels, least=1, most=1024)
        check_range("heads", self.heads, least=1, most=64)
        check_range("groups", self.groups, least=1, most=256)
        check_range("group_scale", self.group_scale, least=0)
        check_range("targets", self.targets, least=1, most=MOST_OUTPUTS)
        check_range("dropout", self.dropout, least=0, below=1)
        if self.heads != type(self).heads and not self.body.has_heads:
            raise ValueError(
                f"heads is {self.heads}, but body {kind_of(self.body)} has no attention heads: leave it out"
            )
        if self.pooling.reads_attention and not self.has_attention:
            raise ValueError(
                f"pooling {kind_of(self.pooling)} needs an attention: set attention, or take another pooling"
            )
        if self.has_attention and not self.pooling.reads_attention:
            raise ValueError(f"pooling {kind_of(self.pooling)} reads no attention: set attention to none")

    @property
    def has_attention(self) -> bool:
        """Whether predictions have the global attention of atoms."""
        return not isinstance(self.attention, NoAttentionConfig)

    @property
    def vector_size(self) -> int:
        """Length of a crystal vector."""
        return self.pooling.width * self.channels

    @property
    def sees(self) -> frozenset[str]:
        """What of a crystal the network reads."""
        return self.embedding.sees | self.body.sees | self.attention.sees | self.pooling.sees

    @property
    def may_merge_atoms(self) -> bool:
        """Whether atoms that are equivalent by symmetry may be computed once, with the same answers."""
        return self.sees <= REDUCIBLE

    @property
    def may_share_between_cells(self) -> bool:
        """Whether all cells of a crystal have the same answer, so that a cached one may be shared between them."""
        return self.may_merge_atoms and self.pooling.intensive

    @property
    def title(self) -> str:
        """Name of the network, for people, such as "CGCNN with set2set pooling"."""
        if self.pooling.reads_attention:
            return self.body.title
        return f"{self.body.title} with {kind_of(self.pooling)} pooling"

    @property
    def attention_reason(self) -> str | None:
        """Why predictions have no attention; None where they have."""
        return None if self.has_attention else f"{self.title} has no global attention"

    def document(self) -> dict[str, Any]:
        """All options, as plain data."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read what `document` returns, without pydantic; parts that are not given are the defaults.

        Raises:
            TypeError, ValueError: if an option is unknown or out of its range.
        """
        options = dict(document)
        for part, registry in REGISTRIES.items():
            if part in options:
                each = part_document(part, options[part])
                options[part] = registry[each["kind"]](**each)
        return cls(**options)


def kind_of(part: PartConfig) -> str:
    """The name of a part in its registry."""
    kind: str = vars(part)["kind"]
    return kind
