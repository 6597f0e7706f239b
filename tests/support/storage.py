"""A real S3 server for tests: SeaweedFS from its wheel, one per test process, one bucket per test.

Nothing is shared with another run: free ports, a folder of its own, random credentials. The server dies with the
process that started it, even when that is killed.
"""

import json
import secrets
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import httpx2
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from api.stack.weed import remove_dead_sockets
from orchestrator.objects.client import Objects
from orchestrator.runtime.scratch import Scratch

REGION = "us-east-1"
START_SECONDS = 30.0
GRPC_PARTS = {"master": 1, "volume": 3, "filer": 5, "s3": 7}
"""Which of the ports each part's hard-wired socket in /tmp is named after."""
TETHER = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: SIGKILL when the process that started us ends\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


def build_weed_command(folder: Path, ports: tuple[int, ...]) -> tuple[list[str], dict[str, str]]:
    """The command and the whole environment of a server whose files are all in `folder` (an absolute, short path).

    `ports`: master, its gRPC, volume, its gRPC, filer, its gRPC, S3, its gRPC.
    """
    master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc = ports
    program = Path(sys.executable).with_name("weed")
    command = [str(program), "-logtostderr=true", f"-config_dir={folder}", "server"]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}/data"]
    command += [f"-master.port={master}", f"-master.port.grpc={master_grpc}", "-master.peers=none"]
    command += ["-master.telemetry=false", "-master.volumeSizeLimitMB=1024"]
    command += [f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}", f"-volume.port.public={volume}"]
    command += ["-volume.max=10000", "-volume.preStopSeconds=0"]
    command += ["-filer", f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}", "-filer.maxMB=4"]
    command += [f"-filer.localSocket={folder}/filer.sock", "-filer.concurrentUploadLimitMB=64"]
    command += ["-filer.exposeDirectoryData=false", "-filer.disableDirListing"]
    command += ["-s3", f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", f"-s3.localSocket={folder}/s3.sock"]
    command += [f"-s3.config={folder}/s3.json", "-s3.iam=false", "-s3.autoCreateBucket=false"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.concurrentUploadLimitMB=64"]
    command += ["-s3.readerCacheSizeMB=64"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder), "GOMEMLIMIT": "256MiB"}
    environment["WEED_MASTER_VOLUME_GROWTH_COPY_1"] = "1"
    for name in ("SIGNING_KEY", "SIGNING_READ_KEY", "FILER_SIGNING_KEY", "FILER_SIGNING_READ_KEY"):
        environment[f"WEED_JWT_{name}"] = secrets.token_hex(32)
    return command, environment


@dataclass
class StorageServer:
    """`start` may be called again after `kill`: the data is still there, under the same endpoint."""

    access_key: str = field(default_factory=lambda: secrets.token_hex(8))
    secret_key: str = field(default_factory=lambda: secrets.token_hex(20))
    scratch: Scratch = field(default_factory=lambda: Scratch("tunepool-s3-"))
    ports: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        return self.scratch.path

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports[6]}"

    def start(self) -> None:
        """Return when the server takes writes. Free ports may be taken by others meanwhile, so it is tried again."""
        remove_dead_sockets()
        (self.folder / "data").mkdir(exist_ok=True)
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        identity = {"name": "tunepool", "credentials": credentials, "actions": ["Admin"]}
        (self.folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        fixed = bool(self.ports)
        for _ in range(1 if fixed else 3):
            self.ports = self.ports if fixed else _free_ports(8)
            self._spawn()
            if self._is_ready_in_time():
                return
            self.kill()
        raise RuntimeError(f"SeaweedFS did not start:\n{(self.folder / 'log').read_text()[-4000:]}")

    def kill(self) -> None:
        """End it at once, as a power cut would end the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        for part, index in GRPC_PARTS.items():
            Path(f"/tmp/seaweedfs-{part}-grpc-{self.ports[index]}.sock").unlink(missing_ok=True)

    def remove(self) -> None:
        self.kill()
        self.scratch.remove()

    def open_objects(self, bucket: str) -> Objects:
        return Objects(self.endpoint, REGION, bucket=bucket, access_key=self.access_key, secret_key=self.secret_key)

    def open_client(self, *, tries: int = 4) -> Any:
        """boto3 itself, for what `Objects` does not offer."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                signature_version="s3v4", s3={"addressing_style": "path"}, retries={"total_max_attempts": tries}
            ),
        )

    def _spawn(self) -> None:
        command, environment = build_weed_command(self.folder, self.ports)
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", TETHER, *command],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _is_ready_in_time(self) -> bool:
        assert self.process is not None
        probe = self.open_client(tries=1)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with suppress(probe.exceptions.BucketAlreadyOwnedByYou, probe.exceptions.BucketAlreadyExists):
                    probe.create_bucket(Bucket="readiness")
                probe.put_object(Bucket="readiness", Key="ready", Body=b"")
            except (ClientError, BotoCoreError):
                time.sleep(0.05)
            else:
                return True
        return False


def _free_ports(count: int) -> tuple[int, ...]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)
    finally:
        for each in sockets:
            each.close()


@pytest.fixture(scope="session")
def storage_server() -> Iterator[StorageServer]:
    """One server for all tests of this process. Tests that kill a server start one of their own."""
    server = StorageServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def storage_connection(storage_server: StorageServer) -> Iterator[Objects]:
    """boto3 takes long to make a client, so the tests of a process share theirs."""
    opened = storage_server.open_objects("readiness")
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def http() -> Iterator[httpx2.Client]:
    """For presigned addresses: a client of its own for each request would load certificates each time."""
    with httpx2.Client(verify=False, trust_env=False) as client:
        yield client


@pytest.fixture
def objects(storage_connection: Objects) -> Objects:
    """An empty bucket that nobody else has. It goes with the server: SeaweedFS needs a second to delete one."""
    opened = copy(storage_connection)
    opened.bucket = f"test-{uuid.uuid4().hex}"
    opened.ensure_bucket()
    return opened
