"""Run every benchmark in turn: `make bench`, or `python -m benchmarks [--quick]`."""

import subprocess
import sys
from pathlib import Path

HELPERS = {"report", "timing"}

folder = Path(__file__).parent
modules = [path.stem for path in folder.glob("[a-z]*.py")] + [path.parent.name for path in folder.glob("*/__main__.py")]
for name in sorted(set(modules) - HELPERS):
    print(f"== python -m benchmarks.{name} {' '.join(sys.argv[1:])}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=True)  # noqa: S603
