"""The content of model.safetensors: the network's state and the arrays of the domain score."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from deepergatgnn.checkpoints.files import WEIGHTS, read_manifest, verify_files, weight_files
from deepergatgnn.checkpoints.manifest import Manifest
from deepergatgnn.errors import ArtifactError
from deepergatgnn.nn.crystal_model import CrystalModel, current_names

_NETWORK, _DOMAIN = "network.", "domain."


def load_artifact(folder: Path) -> tuple[Manifest, list[CrystalModel], dict[str, Tensor]]:
    """Load a verified checkpoint on the CPU.

    Returns:
        The manifest, the networks of the ensemble in evaluation mode, and the arrays of the domain score.

    Raises:
        ArtifactError: if the manifest, a file or a tensor does not fit.
    """
    manifest = read_manifest(folder)
    contents = verify_files(folder, manifest)
    networks: list[CrystalModel] = []
    domain: dict[str, Tensor] = {}
    for file in weight_files(manifest.members):
        arrays = _domain_shapes(manifest) if file == WEIGHTS else {}
        place = f"{folder.name}/{file}"
        network, found = _load(place, _read_tensors(place, contents[file]), manifest, arrays)
        networks.append(network)
        domain |= found
    return manifest, networks, domain


def _load(
    place: str, tensors: dict[str, Tensor], manifest: Manifest, arrays: dict[str, Tensor]
) -> tuple[CrystalModel, dict[str, Tensor]]:
    network = CrystalModel(manifest.network, manifest.graph)
    tensors = _names(current_names(_part(tensors, _NETWORK)), _part(tensors, _DOMAIN)) | _others(tensors)
    expected = _names(network.state_dict(), arrays)
    missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing and all("running_" in key or key.endswith("num_batches_tracked") for key in missing):
        raise ArtifactError(
            f"{place}: normalization without running statistics ({missing[0]}): its answers would depend on "
            "the other crystals of the batch; train with running statistics"
        )
    if missing or unexpected:
        raise ArtifactError(f"{place}: weights do not fit the network: {missing=} {unexpected=}")
    for key, value in tensors.items():
        if value.shape != expected[key].shape or value.dtype != expected[key].dtype:
            raise ArtifactError(
                f"{place}: {key} is {value.dtype} {list(value.shape)}, "
                f"the network has {expected[key].dtype} {list(expected[key].shape)}"
            )
    network.load_state_dict(_part(tensors, _NETWORK))
    network.eval().requires_grad_(requires_grad=False)
    return network, _part(tensors, _DOMAIN)


def pack_weights(networks: Sequence[CrystalModel], domain: Mapping[str, Tensor]) -> dict[str, bytes]:
    """Content of the weight files by name."""
    contents = {}
    for file, network in zip(weight_files(len(networks)), networks, strict=True):
        tensors = _names(network.state_dict(), domain if file == WEIGHTS else {})
        contents[file] = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    return contents


def _names(state: Mapping[str, Tensor], domain: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names in the file."""
    return {_NETWORK + key: value for key, value in state.items()} | {_DOMAIN + key: domain[key] for key in domain}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _others(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that no checkpoint has."""
    return {key: value for key, value in tensors.items() if not key.startswith((_NETWORK, _DOMAIN))}


def _domain_shapes(manifest: Manifest) -> dict[str, Tensor]:
    """Empty arrays of the domain score, in their shapes."""
    size = manifest.network.vector_size
    return {"mean": torch.empty(size), "whitening": torch.empty(size, size)}


def _read_tensors(place: str, content: bytes) -> dict[str, Tensor]:
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArtifactError(f"{place} is not a safetensors file: {error}") from None
    for key, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ArtifactError(f"{place}: {key} has values that are not finite")
    return tensors
