"""Worker processes, with signals sent to them and to the process that started them."""

import signal
import subprocess
import sys

TRAINER = """
import multiprocessing, os, signal
import grain
from bytelm.data.workers import WorkerIterator
from bytelm.core.errors import UserError
from bytelm.core.stopping import SIGNALS

def start():
    iterator = WorkerIterator(grain.MapDataset.range(1000).to_iter_dataset(), 1)
    return iterator, next(iterator), multiprocessing.active_children()[0]

if __name__ == "__main__":
    iterator, first, worker = start()
    for number in SIGNALS:
        os.kill(worker.pid, number)
    print([first, *(next(iterator) for _ in range(9))])
    worker.kill()
    try:
        while True:
            next(iterator)
    except UserError as error:
        print(error)
    iterator, _, worker = start()
    print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), worker.is_alive(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_leave_signals_to_the_trainer_and_end_with_it(tmp_path):
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    # Returns when both the trainer and its worker have closed the output.
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert ended.stdout.splitlines() == [
        str(list(range(10))),
        "a process of data.workers was killed by SIGKILL, perhaps because memory ran out; fewer "
        "--data.workers take less memory.",
        "set() True",
    ]
    assert "Traceback" not in ended.stderr
