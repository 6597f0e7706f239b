"""kill -9 of a writing process, on both engines: what it was told is stored is there, and nobody waits for it."""

import signal
import subprocess
import sys

from orchestrator.store import teams
from orchestrator.store.session import Store

WRITER = """
import sys, threading
from orchestrator.store import teams
from orchestrator.store.session import Store

store = Store(sys.argv[1])

def write(number):
    for repeat in range(1_000_000):
        with store.write() as tx:
            teams.insert_team(tx, name=f"{number}-{repeat}")
        sys.stdout.write(f"{number}-{repeat}\\n")
        sys.stdout.flush()

for number in range(8):
    threading.Thread(target=write, args=(number,), daemon=True).start()
threading.Event().wait()
"""
ACKNOWLEDGED = 60


def test_acknowledged_writes_survive_a_kill_and_locks_do_not(database_url: str, store: Store) -> None:
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, database_url], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert writer.stdout is not None
        with writer, writer.stdout as lines:
            acknowledged = [next(lines).strip() for _ in range(ACKNOWLEDGED)]
            writer.send_signal(signal.SIGKILL)
            acknowledged += [line.strip() for line in lines if line.endswith("\n")]
            assert writer.wait() == -signal.SIGKILL
        with store.write() as tx:
            stored = {team.name for team in teams.list_teams(tx)}
            assert stored >= set(acknowledged)
            for team in stored:
                number, repeat = team.split("-")
                assert repeat == "0" or f"{number}-{int(repeat) - 1}" in stored, "each thread's writes are a prefix"
            tx.execute(teams.teams.delete())
