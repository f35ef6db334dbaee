"""An S3 server on loopback, for the tests: moto's, in a thread of this process, reached over HTTP by every other."""

import os
import urllib.request
from contextlib import contextmanager

BUCKET = "mldiv-tests"


@contextmanager
def serve():
    """Serve an empty AWS while the block runs, with the environment that AWS's clients, pyarrow's among them, read."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": address,
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        request = urllib.request.Request(f"{address}/moto-api/reset", method="POST")
        urllib.request.urlopen(request).close()  # what another server of this process has made
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
