"""How long a start takes to learn what is in the images of an object store: `python tests/planning.py`, some minutes.

A server of its own on the loopback (moto) waits before every answer, as a store does that is far away. Measured are a
first start, a second one, and one after a hundred images have changed; beside them, on fewer images and scaled, the way
before there was a table: one image after the other, and once more for those that are left out.
"""

import argparse
import io
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from upath import UPath

SERVER = """
import os, sys, time
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

images, latency, folder = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
store = s3_backends["123456789012"]["aws"]
store.create_bucket("ail", "us-east-1")
pictures = [open(f"{folder}/{name}", "rb").read() for name in sorted(os.listdir(folder))]
for i in range(images):
    store.put_object("ail", f"images/{i:06d}.png", pictures[i % len(pictures)])
moto = DomainDispatcherApplication(create_backend_app)
WSGIRequestHandler.protocol_version = "HTTP/1.1"  # connections stay, as those to a store do

def slow(environment, respond):
    time.sleep(latency)
    return moto(environment, respond)

server = make_server("127.0.0.1", 0, slow, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000, help="how many there are (default: 100000)")
    parser.add_argument("--before", type=int, default=500, help="how many are read the old way (default: 500)")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before every answer (default: 0.05)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="planning-") as folder:
        pictures = Path(folder, "pictures")
        pictures.mkdir()
        for i in range(16):
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (48, 48), np.uint8)).save(pictures / f"{i}.png")
        words = [sys.executable, "-c", SERVER, str(options.images), str(options.latency), str(pictures)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            try:
                assert server.stdout is not None
                measured(int(server.stdout.readline()), UPath(folder) / "storage", options)
            finally:
                server.terminate()


def measured(port: int, storage: UPath, options: argparse.Namespace) -> None:
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(8), "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    from ail_ray.files import as_path, entries  # reads the settings of AWS
    from ail_ray.imaging.images import content_digest, image_size, reading
    from ail_ray.learning.config import RunConfig
    from ail_ray.runs.preparation import plan_data

    config = RunConfig(
        train=("s3://ail/images",), validation=(), test=(), downsizes=(1.0,), crop=16, shards=16, rule="uniform"
    )

    def start(what: str) -> None:
        began, computed = time.perf_counter(), time.process_time()
        prepared = plan_data(config, storage)
        assert prepared.catalogue
        prepared.catalogue.save()
        seconds, computed = time.perf_counter() - began, time.process_time() - computed
        print(f"{what:40}{seconds:9.1f} s   {computed:7.1f} s of CPU here   {prepared.corpus.digest}", flush=True)

    images = as_path("s3://ail/images")
    few = [entry.path for entry in entries(images)[: options.before]]
    began = time.perf_counter()
    for path in few:
        path.is_file()
        content = path.read_bytes()
        content_digest(content), image_size(path, content), reading(path, content)
    each = (time.perf_counter() - began) / len(few)
    print(f"{'one after the other, scaled from ' + str(len(few)):40}{each * options.images:9.1f} s", flush=True)
    start(f"first start, {options.images} images")
    start("second start")
    changed = io.BytesIO()
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(changed, "png")
    for i in range(100):
        (images / f"{i:06d}.png").write_bytes(changed.getvalue())
    start("100 changed")


if __name__ == "__main__":
    main()
