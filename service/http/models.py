"""`GET /models`: the models of the store and their manifests."""

from contextlib import suppress

from fastapi import APIRouter, Request

from deepergatgnn.checkpoints.manifest import Manifest
from deepergatgnn.errors import DeeperGATGNNError
from deepergatgnn.model_store import split_reference
from deepergatgnn.service.http.dependencies import dependencies_of
from deepergatgnn.service.http.openapi import statuses
from deepergatgnn.service.prediction.catalogue import Catalogue
from deepergatgnn.service.schemas import ModelList, ModelSummary, ModelVersion

router = APIRouter()


@router.get("/models", summary="Every model of the store")
async def list_models(request: Request) -> ModelList:
    """Names, properties, units, versions and test errors."""
    catalogue = dependencies_of(request).catalogue
    summaries = []
    for name in catalogue.production():
        with suppress(DeeperGATGNNError):  # removed from the store meanwhile
            summaries.append(_summary(catalogue, name))
    return ModelList(models=summaries)


@router.get("/models/{name}", responses=statuses(404), summary="One model")
async def show_model(request: Request, name: str) -> ModelSummary:
    """One model and its versions."""
    return _summary(dependencies_of(request).catalogue, name)


@router.get("/models/{name}/{version}", responses=statuses(404), summary="The manifest of a version")
async def show_version(request: Request, name: str, version: str) -> Manifest:
    """Everything about a version but its weights."""
    return dependencies_of(request).catalogue.version(*split_reference(f"{name}@{version}")).manifest


def _summary(catalogue: Catalogue, name: str) -> ModelSummary:
    versions = catalogue.versions(name)
    production = catalogue.production().get(name)
    manifest = catalogue.version(name, production or versions[-1]).manifest
    return ModelSummary(
        name=name,
        production=production,
        live=catalogue.live(name) if production else None,
        property=manifest.target.property,
        unit=manifest.target.unit,
        description=manifest.target.description,
        versions=[ModelVersion(version=version, production=version == production) for version in versions],
        test=manifest.metrics.get("test", {}),
    )
