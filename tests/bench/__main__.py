"""All benchmarks, one after the other, each in a process of its own: `make bench`."""

import subprocess
import sys

BENCHMARKS = (
    ("tests.bench.main_job", "--model", "tiny"),
    ("tests.bench.main_job", "--model", "smollm2"),
    ("tests.bench.overhead",),
    ("tests.bench.submissions",),
    ("tests.bench.followers",),
    ("tests.bench.calibration_replay",),
    ("tests.bench.learned_estimates",),
    ("tests.bench.scheduler_scale",),
    ("tests.bench.scheduler_scale", "--devices", "64", "--queued", "1000", "--teams", "10"),
)


def main() -> int:
    failed = [name for name, *options in BENCHMARKS if subprocess.call([sys.executable, "-m", name, *options])]
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
