"""What goes into a batch: by edges and nodes, never by count. Pure."""

from collections import deque
from dataclasses import dataclass

from service.entries import Entry


@dataclass(frozen=True)
class Budget:
    """What the device computes at once, at most."""

    edges: int
    nodes: int


def take_batch(backlog: deque[Entry], budget: Budget) -> list[Entry]:
    """Take from the front what fits; what does not stays at the front, so that a large crystal never starves.

    Args:
        backlog: entries waiting, oldest first; those taken are removed.
        budget: at least one entry is taken, even if it is larger alone.
    """
    batch: list[Entry] = []
    edges = nodes = 0
    while backlog:
        graph = backlog[0].graph
        edges, nodes = edges + graph.n_links, nodes + graph.n_nodes
        if batch and (edges > budget.edges or nodes > budget.nodes):
            break
        batch.append(backlog.popleft())
    return batch
