"""The content of model.safetensors: the network's state and the arrays of the domain score."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from deepergatgnn.artifact import WEIGHTS, read_manifest, verify_files
from deepergatgnn.errors import ArtifactError
from deepergatgnn.manifest import Manifest
from deepergatgnn.network import DeeperGATGNN

_NETWORK, _DOMAIN = "network.", "domain."


def load_artifact(folder: Path) -> tuple[Manifest, DeeperGATGNN, dict[str, Tensor]]:
    """Load a verified checkpoint on the CPU.

    Returns:
        The manifest, the network in evaluation mode, and the arrays of the domain score.

    Raises:
        ArtifactError: whatever is wrong with the folder, see the module.
    """
    manifest = read_manifest(folder)
    tensors = _read_tensors(folder.name, verify_files(folder, manifest)[WEIGHTS])
    network = DeeperGATGNN(manifest.network, manifest.graph)
    expected = _names(network.state_dict(), _domain_shapes(manifest))
    missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing and all("running_" in key or key.endswith("num_batches_tracked") for key in missing):
        raise ArtifactError(
            f"{folder.name}: normalization without running statistics ({missing[0]}): its answers would depend on "
            "who shares the batch; train with running statistics"
        )
    if missing or unexpected:
        raise ArtifactError(f"{folder.name}: weights do not fit the network: {missing=} {unexpected=}")
    for key, value in tensors.items():
        if value.shape != expected[key].shape or value.dtype != expected[key].dtype:
            raise ArtifactError(
                f"{folder.name}: {key} is {value.dtype} {list(value.shape)}, "
                f"the network has {expected[key].dtype} {list(expected[key].shape)}"
            )
    network.load_state_dict(_part(tensors, _NETWORK))
    network.eval().requires_grad_(requires_grad=False)
    return manifest, network, _part(tensors, _DOMAIN)


def pack_weights(network: DeeperGATGNN, domain: Mapping[str, Tensor]) -> bytes:
    """The content of model.safetensors."""
    tensors = _names(network.state_dict(), domain)
    return save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})


def _names(state: Mapping[str, Tensor], domain: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names in the file."""
    return {_NETWORK + key: value for key, value in state.items()} | {_DOMAIN + key: domain[key] for key in domain}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _domain_shapes(manifest: Manifest) -> dict[str, Tensor]:
    """Empty arrays of the domain score, in their shapes."""
    channels = manifest.network.channels
    return {"mean": torch.empty(channels), "whitening": torch.empty(channels, channels)}


def _read_tensors(name: str, content: bytes) -> dict[str, Tensor]:
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArtifactError(f"{name}/{WEIGHTS} is not a safetensors file: {error}") from None
    for key, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ArtifactError(f"{name}/{WEIGHTS}: {key} has values that are not finite")
    return tensors
