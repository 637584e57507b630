"""Schemas of request and response bodies; the name of a number with a unit ends with it."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, with_config
from pydantic.config import JsonDict
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

Format = Literal["auto", "cif", "poscar", "extxyz", "json"]
Attention = Literal["global", "none"]
ModelReference = Annotated[str, Field(max_length=160)]
Embedding = Annotated[StrictBool, Field(description="Whether each prediction has the crystal vector, `embedding`.")]
QueryEmbedding = Annotated[
    Embedding, BeforeValidator(lambda value: {"true": True, "false": False}.get(value, value), bool)
]
Identifier = Annotated[str, Field(max_length=256)]
EXAMPLE_MODELS: list[Any] = ["bulk-modulus", "band-gap@1.0.0"]
SALT = "NaCl\n1.0\n0 2.82 2.82\n2.82 0 2.82\n2.82 2.82 0\nNa Cl\n1 1\ndirect\n0 0 0\n.5 .5 .5\n"


PREDICTION: JsonDict = {
    "model": "bulk-modulus",
    "version": "1.1.0",
    "property": "log10_k_vrh",
    "value": 1.41,
    "unit": "log10(GPa)",
    "interval": {"level": 0.9, "low": 1.35, "high": 1.47},
    "domain": {"in_domain": True, "score": 0.42, "reasons": []},
    "attention": [
        {"index": 0, "element": "Na", "frac_coords": [0.0, 0.0, 0.0], "weight": 0.38},
        {"index": 1, "element": "Cl", "frac_coords": [0.5, 0.5, 0.5], "weight": 0.62},
    ],
    "embedding": [0.31, -1.27, 0.05],
}


class PredictRequest(BaseModel):
    """One structure, as file text, as pymatgen `Structure.as_dict()`, or as an OPTIMADE structure."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"structure": SALT},
                {
                    "structure": SALT,
                    "format": "poscar",
                    "models": EXAMPLE_MODELS,
                    "attention": "none",
                    "embedding": True,
                    "id": "rocksalt",
                },
            ]
        },
    )

    structure: str | dict[str, Any]
    format: Format = "auto"
    models: list[ModelReference] = Field(default_factory=list, max_length=32)
    attention: Attention = "global"
    embedding: Embedding = False
    id: Identifier | None = None


class PredictOptions(BaseModel):
    """Query options of `POST /predict`, for bodies that are not JSON."""

    format: Format | None = None
    models: list[ModelReference] | None = Field(default=None, max_length=32, examples=[["bulk-modulus"]])
    attention: Attention | None = None
    embedding: QueryEmbedding | None = None


class BulkItem(BaseModel):
    """One structure of a bulk request."""

    model_config = ConfigDict(extra="forbid")

    structure: str | dict[str, Any]
    format: Format = "auto"
    id: Identifier | None = None


class BulkRequest(BaseModel):
    """Many structures and the options of all; a malformed item fails alone, as a refused structure does."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"structures": [{"structure": SALT, "id": "rocksalt"}, {"structure": "?"}]},
                {
                    "structures": [{"structure": SALT, "format": "poscar"}],
                    "models": EXAMPLE_MODELS,
                    "attention": "none",
                    "embedding": True,
                },
            ]
        },
    )

    structures: list[Any] = Field(min_length=1)
    models: list[ModelReference] = Field(default_factory=list, max_length=32)
    attention: Attention = "global"
    embedding: Embedding = False


# Answers are typed dictionaries, not models: the checker compares what builds them with the schema, and nothing
# validates or copies them at run time.


class Interval(TypedDict):
    """Interval that contains the true value with probability `level`."""

    level: float
    low: float
    high: float


class DomainVerdict(TypedDict):
    """Whether the crystal resembles the training set; a score above 1 is unusual."""

    in_domain: bool
    score: float
    reasons: Sequence[str]


class AtomWeight(TypedDict):
    """Global attention of one atom of the posted cell; the weights sum to 1."""

    index: int
    element: str
    frac_coords: Annotated[Sequence[float], Field(min_length=3, max_length=3)]
    weight: float


@with_config(ConfigDict(json_schema_extra={"examples": [PREDICTION]}))
class PropertyPrediction(TypedDict):
    """Prediction of one model; `interval` is null where its calibration cannot promise one, and `warnings` say why.

    A classifier gives `probabilities`, no interval, and the unit `probability`.
    """

    model: str
    version: str
    property: str
    value: Annotated[
        float,
        Field(description="In `unit`. Of two classes the probability of the last one, of more that of the likeliest."),
    ]
    unit: str
    interval: Interval | None
    domain: DomainVerdict
    probabilities: NotRequired[
        Annotated[
            dict[str, float],
            Field(
                description='Of each class, summing to 1, such as {"false": 0.03, "true": 0.97}. Only where the model '
                "has classes."
            ),
        ]
    ]
    attention: NotRequired[
        Annotated[list[AtomWeight] | None, Field(description="Null where the network of the model has none.")]
    ]
    attention_reason: NotRequired[Annotated[str, Field(description="Only where `attention` is null.")]]
    embedding: NotRequired[
        Annotated[
            Sequence[float],
            Field(
                description="Crystal vector that the model's head sees, without a unit; the same in every cell of a "
                "crystal, comparable among crystals of one version. Only where the request has `embedding`: true."
            ),
        ]
    ]


class LatencyMs(TypedDict):
    """Measured, in milliseconds; the parts do not add up to more than `total`."""

    parse: float
    graph: float
    queue: float
    inference: float
    total: float


class Cell(TypedDict):
    """The posted cell as it was read: lengths in Å, angles in degrees, volume in Å³."""

    a: float
    b: float
    c: float
    alpha: float
    beta: float
    gamma: float
    volume: float


@with_config(
    ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "rocksalt",
                    "formula": "Na1 Cl1",
                    "reduced_formula": "NaCl",
                    "n_atoms": 2,
                    "n_edges": 36,
                    "cell": {"a": 3.99, "b": 3.99, "c": 3.99, "alpha": 60, "beta": 60, "gamma": 60, "volume": 44.9},
                    "predictions": [PREDICTION],
                    "warnings": [],
                    "latency_ms": {"parse": 0.4, "graph": 0.3, "queue": 0.6, "inference": 8.1, "total": 10.2},
                }
            ]
        }
    )
)
class PredictResponse(TypedDict):
    """The answer for one structure."""

    id: str
    formula: str
    reduced_formula: str
    n_atoms: int
    n_edges: int
    cell: Cell
    predictions: list[PropertyPrediction]
    warnings: list[str]
    latency_ms: LatencyMs


class ItemError(BaseModel):
    """Error of one structure of a bulk request."""

    code: str
    detail: str


class RefusedItem(BaseModel):
    """Structure of a bulk request that is refused."""

    id: str
    error: ItemError


class BulkResponse(BaseModel):
    """Predictions or an error for each structure, in the posted order."""

    results: list[PredictResponse | RefusedItem]


class ModelVersion(BaseModel):
    """One version of a model."""

    version: str
    production: bool


class ModelSummary(BaseModel):
    """One model; `live` is the version in use: that in production, unless its verification failed."""

    name: str
    production: str | None
    live: str | None
    property: str
    unit: str
    description: str
    versions: list[ModelVersion]
    test: dict[str, float]


class ModelList(BaseModel):
    """Every model of the store."""

    models: list[ModelSummary]


class Health(BaseModel):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class ReadyModels(BaseModel):
    """Models in production: those in use (NAME@VERSION), and the reason of each that failed."""

    ready: list[str]
    failed: dict[str, str]


class Readiness(BaseModel):
    """A request could be answered now."""

    status: Literal["ready"] = "ready"
    workers: int
    models: ReadyModels


class Problem(BaseModel):
    """RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
