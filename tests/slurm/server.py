"""Runs commands of bytelm in processes of their own that need not import it again: forks.

`python -m tests.slurm.server SOCKET` waits for clients (`client.py`), which stand for the program
`bytelm` in job scripts.
"""

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import NoReturn

MODULES = """
bytelm.cli.entry_point bytelm.cli.train bytelm.cli.ablate bytelm.cli.compare
bytelm.experiments.ablate bytelm.experiments.compare
""".split()


def serve(path: str) -> None:
    for name in MODULES:
        importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    listener.settimeout(0.02)
    clients: dict[int, socket.socket] = {}
    print("ready", flush=True)
    while os.getppid() != 1:  # the tests have not ended
        with contextlib.suppress(TimeoutError):
            client, _ = listener.accept()
            client.settimeout(None)
            content, files, _, _ = socket.recv_fds(client, 2**20, 3)
            child = os.fork()
            if child == 0:
                listener.close()
                _run(json.loads(content), files)
            client.sendall(f"{child}\n".encode())
            clients[child] = client
            for file in files:
                os.close(file)
        _tell_ended(clients)


def _tell_ended(clients: dict[int, socket.socket]) -> None:
    while clients:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            return
        with contextlib.suppress(OSError), clients.pop(child) as client:
            client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _run(asked: dict, files: list[int]) -> NoReturn:
    """In a new process, the command as the entry point runs it."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    process = Path(os.environ["FAKE_SLURM"], f"{os.environ['FAKE_JOB']}.process")
    process.write_text(str(os.getpid()))
    sys.argv = ["bytelm", *asked["arguments"]]
    from bytelm.cli.entry_point import run

    status = 1
    try:
        run(asked["arguments"])
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(sys.argv[1])
