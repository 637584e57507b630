"""A network from graph to prediction: embedding → body → attention → pooling → head.

Legend: N nodes, B crystals, F channels, P numbers of a crystal vector, T outputs.
"""

from collections.abc import Mapping, MutableMapping
from importlib import import_module
from typing import Any, NamedTuple, TypeVar, cast

from torch import Tensor, nn

from deepergatgnn.graphs.crystal_graph import GraphConfig
from deepergatgnn.nn.batch import GraphBatch
from deepergatgnn.nn.config import NetworkConfig, PartConfig
from deepergatgnn.nn.neighbourhood import Neighbourhood
from deepergatgnn.nn.stack import Stack

# Names of parameters in checkpoints of schemas 1 and 2, and in states of runs of that time.
_FORMER_NAMES = {
    "element_table": "embedding.element_table",
    "embed_element.": "embedding.elements.0.",
    "embed_surroundings.": "embedding.surroundings.",
    "embed_edge.": "embedding.edges.",
    "layers.": "body.layers.",
    "norms.": "body.norms.",
    "hidden.": "head.hidden.0.",
    "head.weight": "head.values.weight",
    "head.bias": "head.values.bias",
    "spread.": "head.scales.",
}
_OUTPUTS = ("head.values.", "head.scales.")
Value = TypeVar("Value")


class NetworkOutput(NamedTuple):
    """The result of one forward pass.

    Shapes:
        values: [B, T], in the standardised units of training.
        attention: [N], global attention of all the atoms of a node together, summing to 1 over each crystal; None
            where the network has none.
        crystal_vectors: [B, P], the input of the head.
        log_scales: [B, T], logarithm of the predicted scale of the error of each value, same units; 0 without it.
    """

    values: Tensor
    attention: Tensor | None
    crystal_vectors: Tensor
    log_scales: Tensor


class CrystalModel(nn.Module):
    """A network of any parts.

    Args:
        config: of the network.
        graph: of the featuriser whose graphs it reads.
    """

    def __init__(self, config: NetworkConfig, graph: GraphConfig) -> None:
        super().__init__()
        self.config, self.graph = config, graph
        # The order of construction decides which random numbers each part draws, and the order of parameters.
        self.embedding = _implementation(config.embedding)(config, graph)
        self.body = Stack(_implementation(config.body), config, self.embedding.edge_size)
        self.attention = _implementation(config.attention)(config, graph) if config.has_attention else None
        self.pooling = _implementation(config.pooling)(config)
        self.head = _implementation(config.head)(config)
        self.register_load_state_dict_pre_hook(_rename_former)  # type: ignore[no-untyped-call]

    def forward(self, batch: GraphBatch) -> NetworkOutput:
        """Predict a batch of crystals; no crystal sees another, except through batch statistics in training."""
        return self.forward_from(self.embed(batch), batch)

    def forward_from(self, x: Tensor, batch: GraphBatch) -> NetworkOutput:
        """Predict from embedded nodes [N, F] in place of those of `embed`, as explanations do.

        Parts are called by `forward`: hooks of layers and of the attention run, and a small crystal does not wait for
        the bookkeeping of modules that have none.
        """
        x = self.propagate(x, batch)
        weights = self.attend(x, batch)
        vectors = self.pool(x, weights, batch)
        values, log_scales = self.head.forward(vectors)
        return NetworkOutput(values, weights, vectors, log_scales)

    def embed(self, batch: GraphBatch) -> Tensor:
        """Embed the nodes: [N, F]."""
        return cast("Tensor", self.embedding.forward(batch))

    def propagate(self, x: Tensor, batch: GraphBatch) -> Tensor:
        """Run all layers of the body: [N, F] → [N, F]."""
        e = self.embedding.embed_distances(batch.distances)
        return self.body.forward(x, e, Neighbourhood.of(batch))

    def attend(self, x: Tensor, batch: GraphBatch) -> Tensor | None:
        """Weigh the nodes [N] by the global attention; None without one."""
        return None if self.attention is None else cast("Tensor", self.attention(x, batch))

    def pool(self, x: Tensor, weights: Tensor | None, batch: GraphBatch) -> Tensor:
        """Pool the nodes to crystal vectors: [N, F] → [B, P]."""
        return cast("Tensor", self.pooling.forward(x, weights, batch))

    def stages(self) -> list[list[nn.Module]]:
        """Modules from below: the embedding, each layer of the body with its normalization, and all above them."""
        layers = (
            [list(pair) for pair in zip(self.body.layers, self.body.norms, strict=True)]
            if self.body.norms
            else [[layer] for layer in self.body.layers]
        )
        above = [module for module in (self.attention, self.pooling, self.head) if module is not None]
        return [[self.embedding], *layers, above]

    def single_target(self, first: int, count: int = 1) -> "CrystalModel":
        """Copy the network with the outputs of one target only, in evaluation mode, on the CPU.

        Args:
            first: of the outputs of the target.
            count: of them; several are classes, which have no predicted scale.
        """
        config = NetworkConfig(**{**vars(self.config), "targets": count, "spread": self.config.spread and count == 1})
        single = CrystalModel(config, self.graph)
        state = {key: value.cpu().clone() for key, value in self.state_dict().items()}
        state |= {key: value[first : first + count] for key, value in state.items() if is_output(key)}
        single.load_state_dict({key: state[key] for key in single.state_dict()})
        return single.eval()


def is_output(name: str) -> bool:
    """Whether a parameter has one row for each output of the network."""
    return name.startswith(_OUTPUTS)


def current_names(state: Mapping[str, Value]) -> dict[str, Value]:
    """Rename the parameters of networks that were saved before schema 3."""
    return {_current(name): value for name, value in state.items()}


def _current(name: str) -> str:
    return next(
        (now + name.removeprefix(former) for former, now in _FORMER_NAMES.items() if name.startswith(former)), name
    )


def _rename_former(_module: nn.Module, state: MutableMapping[str, Tensor], prefix: str, *_others: Any) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        if (current := _current(name)) != name:
            state[prefix + current] = state.pop(key)


def _implementation(part: PartConfig) -> Any:
    """Import the class that implements a part."""
    module, _, name = part.implementation.partition(":")
    return getattr(import_module(module), name)
