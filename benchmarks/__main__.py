"""Every benchmark in turn: `make bench`, or `python -m benchmarks [--quick]`."""

import subprocess
import sys
from pathlib import Path

for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
    if path.stem != "timing":
        print(f"== python -m benchmarks.{path.stem} {' '.join(sys.argv[1:])}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{path.stem}", *sys.argv[1:]], check=True)  # noqa: S603
