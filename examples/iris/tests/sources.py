"""The real sources of the example, started on this machine: PostgreSQL by its own start script, and the HTTP API."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "sources"
PASSWORD = "it's a 'test'"
SECONDS = 60


def postgres_binaries():
    """Directory of PostgreSQL's programs: $PG_BIN, or where Debian puts them."""
    found = [Path(os.environ["PG_BIN"])] if "PG_BIN" in os.environ else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    usable = [path for path in found if (path / "initdb").exists()]
    if not usable:
        raise AssertionError(
            "the tests need PostgreSQL's programs: install them (apt-get install postgresql-15), or set PG_BIN to the directory of initdb"
        )
    return usable[-1]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A child process that listens on a port of loopback."""

    def __init__(self, command, port, **options):
        self.port = port
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.process.kill()
                    raise AssertionError(f"{command} does not listen on port {port}:\n{self.process.communicate()[0]}") from None
                time.sleep(0.1)

    def stop(self):
        """Ends it as a Pod is ended, and returns its exit code."""
        self.process.terminate()
        try:
            self.process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode


def postgres(directory):
    """PostgreSQL refuses to run as root, so a root user's test runs it as nobody, like the Pod does."""
    owner = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    seed, data, port = directory / "seed", directory / "data", free_port()
    shutil.copytree(SOURCES, seed)
    data.mkdir()
    for path in (directory, seed):
        path.chmod(0o755)
    if owner:
        shutil.chown(data, owner["user"])
    env = {
        "PATH": os.environ["PATH"],
        "PG_BIN": str(postgres_binaries()),
        "DIRECTORY": str(data),
        "PASSWORD": PASSWORD,
        "PGPORT": str(port),
        "LISTEN": "127.0.0.1",
    }
    return Server(["sh", str(seed / "petals.sh")], port, env=env, cwd="/", **owner)


def species():
    port = free_port()
    return Server([sys.executable, str(SOURCES / "species.py"), str(port)], port)
