"""What others could reach or read of a sweep: `make listen`.

Four ways to use the program: the demo at two workers on a Ray of its own, a job submitted to a head, `mlflow ui` as it
is printed, and one process that records at a tracking server whose address bears a password, in five forms. Fifty
secrets are in the environment, each a word of its own. Every socket that a process waits on is looked for ten times a
second, and must be on the loopback; afterwards every file of the sweep, its storage path, the temporary folders, the
home and Ray's session is searched for the words, and nobody else may read Ray's session. Exit code 1: something is not
so.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import heads
from sockets import Watch, watched
from tiny_files import TinyFiles, as_options, make_tiny_files

from ail_ray.orchestration.submission import FORWARDED

JOB = heads.REPOSITORY / "jobs" / "ail_sweep.py"
NAMES = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN",
    "AWS_BEARER_TOKEN_BEDROCK", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_SECRET_KEY", "AWS_ACCESS_KEY",
    "FSSPEC_S3_KEY", "FSSPEC_S3_SECRET", "FSSPEC_GS_TOKEN", "GOOGLE_API_KEY", "GOOGLE_OAUTH_ACCESS_TOKEN",
    "GOOGLE_CREDENTIALS", "GOOGLE_CLOUD_KEYFILE_JSON", "CLOUDSDK_AUTH_ACCESS_TOKEN", "GCLOUD_KEYFILE_JSON",
    "GCP_SERVICE_ACCOUNT_KEY", "GOOGLE_CLIENT_SECRET", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_CLIENT_SECRET", "AZURE_PASSWORD",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD", "AZURE_FEDERATED_TOKEN", "AZURE_TENANT_SECRET", "ARM_CLIENT_SECRET",
    "ARM_ACCESS_KEY", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_AUTH_ADMIN_PASSWORD", "DATABRICKS_TOKEN", "DATABRICKS_PASSWORD",
    "DATABRICKS_CLIENT_SECRET", "RAY_AUTH_TOKEN", "RAY_REDIS_PASSWORD", "ANYSCALE_CLI_TOKEN", "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "COMET_API_KEY", "OPENAI_API_KEY", "GITHUB_TOKEN", "GITLAB_TOKEN",
    "PGPASSWORD", "MYSQL_PWD", "REDIS_PASSWORD", "VAULT_TOKEN",
)  # fmt: skip
SECRETS = {name: f"canary{number:02d}q{name.lower().replace('_', 'x')}" for number, name in enumerate(NAMES)}
IN_ADDRESS = f"canary{len(NAMES)}qinqtheqaddress"
ADDRESSES = (
    "http://user:{secret}@127.0.0.1:{port}", "http://{secret}@127.0.0.1:{port}", "http://127.0.0.1:{port}?token={secret}",
    "http://127.0.0.1:{port}/#{secret}", "http://user:{secret}@127.0.0.1:{port}/?password={secret}",
)  # fmt: skip
"""Of a tracking server; some work, and what cannot work is refused."""
PATIENCE = 300  # seconds


@dataclass
class Place:
    """A folder to work in, with a home and temporary folders of its own."""

    folder: Path
    files: TinyFiles
    problems: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "AIL_"))}
        own = {"HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp"), "RAY_TMPDIR": str(self.folder)}
        return {**inherited, **SECRETS, **own, "PYTHONPATH": str(heads.REPOSITORY), "PYTHONUNBUFFERED": "1"}

    def sweep(self, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        """The command a user types, with its output kept beside its results."""
        for name in ("home", "tmp"):
            (self.folder / name).mkdir(exist_ok=True)
        protocol = {**self.files.protocol(), "rounds": 1, "epochs": 1, "lam": (0.1,), "teacher": ("none",)}
        with (self.folder / "printed").open("ab") as printed:
            return subprocess.Popen(
                [sys.executable, str(JOB), "demo", *as_options(protocol), "--width", "2", *words],
                cwd=self.folder, env=self.environment | environment, stdout=printed, stderr=printed,
            )  # fmt: skip

    def search(self, folder: Path, *, told: Sequence[str] = ()) -> None:
        """Look for the secrets in every file.

        Args:
            told: those that whoever sent the job has sent along.
        """
        words = {word.encode(): name for name, word in SECRETS.items() if name not in told}
        words[IN_ADDRESS.encode()] = "an address"
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        for path in files:
            content = path.read_bytes()
            if b"canary" in content:
                held = sorted(name for word, name in words.items() if word in content)
                self.problems += [f"{path.relative_to(folder)} holds {', '.join(held)}"] * bool(held)
        print(f"  {len(files)} files searched")

    def look_at_permissions(self) -> None:
        """Who may read the session of a Ray that was started here, and its token."""
        for session in self.folder.glob("**/session_2*"):
            around = list(session.parents)[: -len(self.folder.parents)]
            if session.is_dir() and all(folder.stat().st_mode & 0o077 for folder in [session, *around]):
                self.problems.append(f"{session.relative_to(self.folder)} is open to others")
        token = self.folder / "home" / ".ray" / "auth_token"
        if token.exists() and token.stat().st_mode & 0o077:
            self.problems.append("the token of Ray is open to others")

    def check(self, watch: Watch, least: int) -> None:
        """Print where processes waited, and note what is not on the loopback."""
        for address in sorted({each.address for each in watch.seen}):
            names = sorted({each.name for each in watch.seen if each.address == address})
            count = sum(each.address == address for each in watch.seen)
            print(f"  {address:12} {count:3} sockets of {', '.join(names)}")
        print(f"  {watch.looks} looks")
        self.problems += [f"{each} waits on {each.address}" for each in watch.seen if not _loopback(each.address)]
        self.problems += [f"only {len(watch.seen)} sockets were seen"] * (len(watch.seen) < least)


def _loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def own_ray(place: Place) -> None:
    """The demo at two workers."""
    process = place.sweep("--workers", "2", "--out", "out")
    with watched(process.pid) as watch:
        code = process.wait(PATIENCE)
    place.problems += [(place.folder / "printed").read_text()] * (code != 0)
    workers = {each.pid for each in watch.seen if "RayTrainWorker" in each.name}
    place.problems += [f"only {len(workers)} workers were seen to listen"] * (len(workers) < 2)
    place.check(watch, 10)


def submitted(place: Place) -> None:
    """A job sent by `ail submit` to a head on the loopback; what its operator gave the head is the head's."""
    for name in ("home", "tmp"):
        (place.folder / name).mkdir(exist_ok=True)
    job = place.files.protocol() | {"rounds": 1, "epochs": 1, "lam": (0.1,), "teacher": ("none",), "width": (2,)}
    with heads.head() as head, watched(head.process.pid) as watch:
        own = {name: value for name, value in head.environment.items() if name.startswith("RAY_")}
        words = [*as_options(job), "--workers", "2", "--out", str(place.folder / "out")]
        with (place.folder / "printed").open("wb") as printed:
            code = subprocess.run(
                [sys.executable, "-m", "ail_ray", "submit", "--address", head.address,
                 "--", sys.executable, "jobs/ail_sweep.py", "demo", *words],
                cwd=heads.REPOSITORY, env=place.environment | {"RAY_AUTH_TOKEN": head.token} | own, stdout=printed,
                stderr=printed, check=False, timeout=PATIENCE,
            ).returncode  # fmt: skip
        place.problems += [(place.folder / "printed").read_text()] * (code != 0)
        place.search(head.folder, told=FORWARDED)
    place.check(watch, 10)


def page(place: Place) -> None:
    """`mlflow ui` as a sweep prints it."""
    assert place.sweep("--local", "--out", "out").wait(PATIENCE) == 0, (place.folder / "printed").read_text()
    lines = (place.folder / "printed").read_text().splitlines()
    (command,) = [line.split(": ", 1)[1] for line in lines if ": mlflow ui" in line]
    (address,) = [line.split()[-1].partition("#")[0] for line in lines if line.startswith("then open")]
    program, *words = shlex.split(command)
    with (place.folder.parent / "server").open("wb") as printed:
        server = subprocess.Popen(
            [str(Path(sys.executable).with_name(program)), *words], cwd=place.folder, env=place.environment,
            stdout=printed, stderr=printed, start_new_session=True,
        )  # fmt: skip
    with ended(server), watched(server.pid) as watch:
        _wait_for(address)
    place.check(watch, 1)


def addresses(place: Place) -> None:
    """A tracking server whose address bears a password."""
    (port,) = heads.free_ports(1)
    with (place.folder.parent / "server").open("wb") as printed:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
             "--backend-store-uri", f"sqlite:///{place.folder / 'server.db'}",
             "--artifacts-destination", str(place.folder / "artifacts")],
            cwd=place.folder, stdout=printed, stderr=printed, start_new_session=True,
        )  # fmt: skip
    with ended(server):
        _wait_for(f"http://127.0.0.1:{port}")
        for number, form in enumerate(ADDRESSES):
            uri = form.format(secret=IN_ADDRESS, port=port)
            out = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
            code = place.sweep("--local", "--out", f"out{number}", **out).wait(PATIENCE)
            print(f"  {form:55} exit code {code}")
            place.problems += [f"{form}: exit code {code}"] * (code not in (0, 2))


@contextlib.contextmanager
def ended(server: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _wait_for(address: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(address, timeout=10).close()
            return
        assert time.monotonic() < deadline, f"{address} does not answer"
        time.sleep(0.5)


WAYS = {"own Ray": own_ray, "submitted": submitted, "mlflow ui": page, "addresses": addresses}


def main() -> int:
    """Try all ways, or those that are named; returns the exit code."""
    problems = list[str]()
    with tempfile.TemporaryDirectory(prefix="ail") as name:
        folder = Path(name)
        files = make_tiny_files(folder)
        for way, use in WAYS.items():
            if sys.argv[1:] and way not in sys.argv[1:]:
                continue
            print(way, flush=True)
            place = Place(folder / way[:1], files)
            place.folder.mkdir()
            use(place)
            place.search(place.folder)
            place.look_at_permissions()
            problems += [f"{way}: {problem}" for problem in place.problems]
    for problem in problems:
        print(problem)
    print(f"{len(problems)} wrong; {len(SECRETS)} secrets in the environment, {len(ADDRESSES)} in addresses")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
