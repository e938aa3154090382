"""A LitServe server that answers each picture with itself; frontend.py runs it in its own venv."""

import sys

import litserve
from fastapi import Response


class Echo(litserve.LitAPI):
    def setup(self, device):
        pass

    def decode_request(self, request):
        return request["image"].file.read()

    def predict(self, picture):
        return picture

    def encode_response(self, picture):
        return Response(picture, media_type="image/png")


if __name__ == "__main__":
    server = litserve.LitServer(Echo(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
