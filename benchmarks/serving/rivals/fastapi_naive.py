"""FastAPI that predicts one crystal after the other.

python -m benchmarks.serving.rivals.fastapi_naive PORT STORE MODEL DEVICE
"""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI

from benchmarks.serving.rivals.model import Model


def main() -> None:
    """Serve until killed."""
    port, store, name, device = sys.argv[1:]
    model = Model(store, name, device)
    app = FastAPI()

    @app.get("/health")
    async def health() -> str:
        return "ok"

    @app.post("/predict")
    async def predict(request: dict[str, Any]) -> dict[str, Any]:
        decoded = model.read(request)
        return model.answer(decoded, model.predict([decoded])[0])

    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
