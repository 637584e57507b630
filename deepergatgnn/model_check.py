"""Properties that every network must have, whatever its parts; for the tests, and for networks of your own.

    check_model(NetworkConfig(body=MyBodyConfig(), ...))

A property draws weights, computes a few small crystals in double precision and compares. What a network sees, as its
configuration declares, decides which properties apply: equivalent atoms are merged only where it may be.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from deepergatgnn.graphs.build import build_graph
from deepergatgnn.graphs.crystal_graph import CrystalGraph, GraphConfig
from deepergatgnn.graphs.symmetry_reduction import reduce_graph
from deepergatgnn.nn.batch import GraphBatch, collate
from deepergatgnn.nn.config import NetworkConfig
from deepergatgnn.nn.crystal_model import CrystalModel, NetworkOutput
from deepergatgnn.structures import Crystal, crystal_from_arrays

TOLERANCE = 1e-5  # relative and absolute: graphs of one crystal in two cells have distances rounded to float32
EXACT = 1e-9  # the same distances, another order of sums
DEPTH = 50
LARGEST_OUTPUT = 1e3  # of a new network of that depth, in standard deviations of the targets
Property = Callable[[NetworkConfig, GraphConfig], None]


class ModelCheckError(AssertionError):
    """A network does not have a property that it must have."""


def check_model(config: NetworkConfig, graph: GraphConfig | None = None) -> None:
    """Check all properties of a network.

    Args:
        config: of the network; small sizes check as well as large ones.
        graph: of the featuriser; with angular features, if not given.

    Raises:
        ModelCheckError: for the first property that it does not have.
    """
    for check in PROPERTIES.values():
        check(config, graph or GraphConfig(angles=2))


def example_crystals() -> list[Crystal]:
    """Crystals that break naive code: one atom among its own images, symmetry, and none at all."""
    sodium = crystal_from_arrays(4.29 / 2 * np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]), ["Na"], [[0, 0, 0]])
    salt = crystal_from_arrays(5.64 / 2 * (1 - np.eye(3)), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    u = 0.305
    rutile = crystal_from_arrays(
        np.diag([4.594, 4.594, 2.959]),
        ["Ti", "Ti", "O", "O", "O", "O"],
        [[0, 0, 0], [0.5, 0.5, 0.5], [u, u, 0], [-u, -u, 0], [0.5 + u, 0.5 - u, 0.5], [0.5 - u, 0.5 + u, 0.5]],
    )
    triclinic = crystal_from_arrays(
        np.array([[3.9, 0.2, -0.3], [0.5, 4.4, 0.4], [-0.6, 0.7, 5.1]]),
        ["Ba", "Ti", "O", "O"],
        [[0.02, 0.01, 0.05], [0.48, 0.55, 0.51], [0.51, 0.05, 0.43], [0.07, 0.46, 0.62]],
    )
    return [sodium, salt, rutile, triclinic]


def drawn_model(config: NetworkConfig, graph: GraphConfig, seed: int = 0) -> CrystalModel:
    """A network in evaluation mode and double precision; no bias and no running statistic is at its default."""
    torch.manual_seed(seed)
    model = CrystalModel(config, graph)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif name.endswith(("running_mean", "bias")):
                tensor.copy_(0.4 * torch.rand(tensor.shape, generator=generator) - 0.2)
    return model.double().eval()


def _check_permutation(config: NetworkConfig, graph: GraphConfig) -> None:
    rng = np.random.default_rng(0)
    for crystal in example_crystals():
        order = rng.permutation(crystal.n_atoms)
        other = replace(crystal, atomic_numbers=crystal.atomic_numbers[order], frac_coords=crystal.frac_coords[order])
        _compare_cells("the order of atoms", config, graph, (crystal, other), order)


def _check_rotation(config: NetworkConfig, graph: GraphConfig) -> None:
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    for crystal in example_crystals():
        _compare_cells("a rotation", config, graph, (crystal, replace(crystal, lattice=crystal.lattice @ turn)))


def _check_translation(config: NetworkConfig, graph: GraphConfig) -> None:
    shift = np.array([0.31, -0.72, 0.13])
    for crystal in example_crystals():
        other = replace(crystal, frac_coords=crystal.frac_coords + shift)
        _compare_cells("a translation", config, graph, (crystal, other))


def _check_cell_choice(config: NetworkConfig, graph: GraphConfig) -> None:
    change = np.array([[1, 1, 0], [0, 1, 0], [-1, 0, 1]])  # of determinant 1
    for crystal in example_crystals():
        coords = crystal.frac_coords @ np.linalg.inv(change)
        other = replace(crystal, lattice=change @ crystal.lattice, frac_coords=coords)
        _compare_cells("the choice of the cell", config, graph, (crystal, other))


def _check_supercell(config: NetworkConfig, graph: GraphConfig) -> None:
    if not config.pooling.intensive:
        return
    model = drawn_model(config, graph)
    repeats = (2, 1, 3)
    shifts = np.array(list(np.ndindex(repeats)))
    for crystal in example_crystals():
        larger = replace(
            crystal,
            lattice=crystal.lattice * np.array(repeats)[:, None],
            atomic_numbers=crystal.atomic_numbers.repeat(len(shifts)),
            frac_coords=((crystal.frac_coords[:, None] + shifts) / repeats).reshape(-1, 3),
        )
        one, other = _output(model, [build_graph(crystal, graph)]), _output(model, [build_graph(larger, graph)])
        _close("a supercell changes the value", one.values, other.values, TOLERANCE)
        _close("a supercell changes the crystal vector", one.crystal_vectors, other.crystal_vectors, TOLERANCE)
        if one.attention is not None and other.attention is not None:
            shares = other.attention.view(-1, len(shifts)).sum(dim=1)
            _close("a supercell changes the attention", one.attention, shares, TOLERANCE)


def _check_one_atom(config: NetworkConfig, graph: GraphConfig) -> None:
    output = _output(drawn_model(config, graph), [build_graph(example_crystals()[0], graph)])
    if not all(part.isfinite().all() for part in output if part is not None):
        raise ModelCheckError("a cell of one atom has no finite answer")
    if output.attention is not None and output.attention.tolist() != [1.0]:
        raise ModelCheckError(f"the only atom of a cell has attention {output.attention.tolist()}, not 1")


def _check_batch(config: NetworkConfig, graph: GraphConfig) -> None:
    model, graphs = drawn_model(config, graph), _graphs(graph)
    together, alone = _output(model, graphs), [_output(model, [each]) for each in graphs]
    for name in NetworkOutput._fields:
        whole, parts = getattr(together, name), [getattr(each, name) for each in alone]
        if whole is not None:
            _close(f"{name} depends on the other crystals of the batch", whole, torch.cat(parts), EXACT)


def _check_reduction(config: NetworkConfig, graph: GraphConfig) -> None:
    """Merging equivalent atoms must change neither answers nor training: gradients and running statistics."""
    if not config.may_merge_atoms:
        return
    whole = _graphs(graph)
    reduced = [reduce_graph(each) for each in whole]
    config = replace(config, dropout=0.0)
    for training in (False, True):
        models = [drawn_model(config, graph).train(training) for _ in range(2)]
        outputs = [model(_batch(graphs)) for model, graphs in zip(models, (whole, reduced), strict=True)]
        first, second = outputs
        for name in ("values", "crystal_vectors", "log_scales"):
            _close(f"merging atoms changes {name}", getattr(first, name), getattr(second, name), EXACT)
        if first.attention is not None:
            nodes = torch.from_numpy(np.concatenate(_numbered_nodes(reduced)))
            sums = torch.zeros_like(second.attention).index_add(0, nodes, first.attention)
            _close("merging atoms changes the attention", sums, second.attention, EXACT)
        gradients = []
        for model, output in zip(models, outputs, strict=True):
            (output.values.square().sum() + output.log_scales.sum()).backward()
            gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        for name, gradient in gradients[0].items():
            _close(f"merging atoms changes the gradient of {name}", gradient, gradients[1][name], 1e-7)
        for (name, one), (_, other) in zip(models[0].named_buffers(), models[1].named_buffers(), strict=True):
            _close(f"merging atoms changes {name}", one, other, EXACT)


def _check_saving(config: NetworkConfig, graph: GraphConfig) -> None:
    if NetworkConfig.from_document(config.document()) != config:
        raise ModelCheckError("the configuration is not read as it was written")
    model, other = drawn_model(config, graph), CrystalModel(config, graph).double().eval()
    other.load_state_dict(load(save({key: value.contiguous() for key, value in model.state_dict().items()})))
    for one, two in zip(_output(model, _graphs(graph)), _output(other, _graphs(graph)), strict=True):
        if one is not None and two is not None and not torch.equal(one, two):
            raise ModelCheckError("a network that was saved and loaded gives other bits")


def _check_input(config: NetworkConfig, graph: GraphConfig) -> None:
    for training in (False, True):
        batch = _batch(_graphs(graph))
        before = {each.name: getattr(batch, each.name).clone() for each in fields(batch)}
        drawn_model(config, graph).train(training)(batch)
        changed = [name for name, value in before.items() if not torch.equal(getattr(batch, name), value)]
        if changed:
            raise ModelCheckError(f"the forward pass changes its input: {changed}")


def _check_depth(config: NetworkConfig, graph: GraphConfig) -> None:
    torch.manual_seed(0)
    model = CrystalModel(replace(config, layers=DEPTH), graph).train()
    output = model(collate(_graphs(graph)))
    if not output.values.abs().max() < LARGEST_OUTPUT:
        raise ModelCheckError(f"a new network of {DEPTH} layers gives values up to {output.values.abs().max()}")
    (output.values.square().mean() + output.log_scales.square().mean()).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is None or not parameter.grad.isfinite().all():
            raise ModelCheckError(f"{DEPTH} layers: {name} has no finite gradient")


PROPERTIES: dict[str, Property] = {
    "permutation": _check_permutation,
    "rotation": _check_rotation,
    "translation": _check_translation,
    "cell choice": _check_cell_choice,
    "supercell": _check_supercell,
    "one atom": _check_one_atom,
    "batch = single": _check_batch,
    "merged = whole": _check_reduction,
    "save and load": _check_saving,
    "input untouched": _check_input,
    "depth": _check_depth,
}


def _compare_cells(
    what: str,
    config: NetworkConfig,
    graph: GraphConfig,
    crystals: tuple[Crystal, Crystal],
    order: NDArray[np.int64] | None = None,
) -> None:
    """Compare the outputs for a crystal and another description of it, whose atoms may be reordered."""
    model = drawn_model(config, graph)
    one, other = (_output(model, [build_graph(crystal, graph)]) for crystal in crystals)
    for name in ("values", "crystal_vectors", "log_scales"):
        _close(f"{what} changes {name}", getattr(one, name), getattr(other, name), TOLERANCE)
    if one.attention is not None and other.attention is not None:
        expected = one.attention if order is None else one.attention[torch.from_numpy(order)]
        _close(f"{what} changes the attention", expected, other.attention, TOLERANCE)


def _graphs(graph: GraphConfig) -> list[CrystalGraph]:
    return [build_graph(crystal, graph) for crystal in example_crystals()]


def _batch(graphs: Sequence[CrystalGraph]) -> GraphBatch:
    return collate(graphs).to("cpu", dtype=torch.float64)


def _output(model: CrystalModel, graphs: Sequence[CrystalGraph]) -> NetworkOutput:
    with torch.no_grad():
        output: NetworkOutput = model(_batch(graphs))
    return output


def _numbered_nodes(graphs: Sequence[CrystalGraph]) -> list[NDArray[np.int64]]:
    """The node of each atom of each graph, nodes numbered through the batch."""
    starts = np.cumsum([0, *(graph.n_nodes for graph in graphs[:-1])])
    return [graph.node_of_atom + start for graph, start in zip(graphs, starts, strict=True)]


def _close(message: str, one: Tensor, other: Tensor, tolerance: float) -> None:
    if one.shape != other.shape or not torch.allclose(one, other, rtol=tolerance, atol=tolerance):
        raise ModelCheckError(f"{message}: {one.flatten()[:4].tolist()} against {other.flatten()[:4].tolist()}")
