"""`POST /predict`: properties of one crystal."""

import time

import orjson
from fastapi import Request, Response

from deepergatgnn.service.http.dependencies import dependencies_of, flow_of_request
from deepergatgnn.service.http.disconnect import cancel_on_disconnect
from deepergatgnn.service.http.openapi import body, prediction_responses, query_parameters, reference
from deepergatgnn.service.http.prediction_route import PredictionRoute
from deepergatgnn.service.http.request_body import DEADLINE_HEADER, read_prediction_input, time_limit_s
from deepergatgnn.service.lanes import INTERACTIVE
from deepergatgnn.service.schemas import PredictOptions, PredictRequest, PredictResponse
from deepergatgnn.service.telemetry.tracing import PHASES

TIMING = {"description": "`latency_ms`, as `phase;dur=ms`.", "required": True, "schema": {"type": "string"}}
SERVER_TIMING = ", ".join(f"{phase};dur={{{phase}:.3f}}" for phase in (*PHASES, "total"))


async def predict(request: Request) -> Response:
    """Post a CIF, POSCAR, extxyz or JSON structure; get values, intervals, attention and times.

    With a plain body or a multipart form, `format`, `models` and `attention` are query parameters.
    """
    started = time.perf_counter()
    dependencies, request_id = dependencies_of(request), request.state.request_id
    pipeline, tracing = dependencies.pipeline, dependencies.tracing
    request.state.caller.spend(1)
    deadline = time.monotonic() + time_limit_s(request, dependencies.settings.deadline_s)
    posted = await read_prediction_input(request)  # before admission: a slow sender must hold no ticket
    demand = pipeline.demand(posted.models, posted.size)
    with dependencies.admission.admit(INTERACTIVE, flow_of_request(request), demand) as ticket:
        work = pipeline.answer(
            posted, request_id=request_id, started=started, deadline=deadline, lane=INTERACTIVE, ticket=ticket
        )
        answer = await cancel_on_disconnect(request, work)
    latency_ms = answer["latency_ms"]
    if tracing.enabled:
        tracing.record(request_id, answer["formula"], latency_ms, request.headers)
    timing = SERVER_TIMING.format_map(latency_ms)
    return Response(orjson.dumps(answer), media_type="application/json", headers={"Server-Timing": timing})


PREDICT = PredictionRoute(
    "/predict",
    predict,
    lane=INTERACTIVE,
    body_limit="max_body_mib",
    operation={
        "summary": "Properties of one crystal",
        "parameters": [*query_parameters(PredictOptions), DEADLINE_HEADER],
        "requestBody": body(
            {
                "application/json": {"schema": reference(PredictRequest)},
                "chemical/x-cif": {"schema": {"type": "string"}},
                "text/plain": {"schema": {"type": "string"}},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"file": {"type": "string", "format": "binary"}},
                        "required": ["file"],
                        "additionalProperties": False,
                    }
                },
            }
        ),
        "responses": prediction_responses(
            {"application/json": {"schema": reference(PredictResponse)}}, headers={"Server-Timing": TIMING}
        ),
    },
)
