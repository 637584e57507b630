"""LitServe, set up as its documentation says; graphs are built for a batch (`together`) or on decoding (`each`).

python -m benchmarks.serving.rivals.litserve PORT STORE MODEL DEVICE BATCH TIMEOUT WORKERS together|each
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.serving.rivals.model import DecodedRequest, Predicted

    Batch = list[tuple[DecodedRequest, Predicted]]

litserve = import_module("litserve")  # not a dependency of this project: see --litserve


class CrystalAPI(litserve.LitAPI):  # type: ignore[misc, name-defined]
    """Decodes each request, and predicts them as a batch."""

    def setup(self, device: str) -> None:
        """Load the model in each worker."""
        from benchmarks.serving.rivals.model import Model  # noqa: PLC0415 - torch in its workers only

        del device
        self.model = Model(*sys.argv[2:5])

    def decode_request(self, request: dict[str, Any]) -> "DecodedRequest":
        """Read the structure, and build its graph with `each`."""
        return self.model.read(request, graph=sys.argv[8] == "each")

    def batch(self, inputs: "list[DecodedRequest]") -> "list[DecodedRequest]":
        """Return the list, which the predictor takes."""
        return inputs

    def predict(self, inputs: "list[DecodedRequest] | DecodedRequest") -> "Batch":
        """Predict a batch."""
        requests = inputs if isinstance(inputs, list) else [inputs]
        return list(zip(requests, self.model.predict(requests), strict=True))

    def unbatch(self, output: "Batch") -> "Batch":
        """Return the list."""
        return output

    def encode_response(self, output: "tuple[DecodedRequest, Predicted] | Batch") -> dict[str, Any]:
        """Build one answer."""
        request, predicted = output[0] if isinstance(output, list) else output
        return self.model.answer(request, predicted)


def main() -> None:
    """Serve until killed."""
    port, batch, timeout, workers = int(sys.argv[1]), int(sys.argv[5]), float(sys.argv[6]), int(sys.argv[7])
    api = CrystalAPI(max_batch_size=batch, batch_timeout=timeout)
    accelerator = "cuda" if sys.argv[4].startswith("cuda") else "cpu"
    server = litserve.LitServer(api, accelerator=accelerator, devices=1, workers_per_device=workers)
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False, num_api_servers=1)


if __name__ == "__main__":
    main()
