"""The processes of a service; how they start, end and replace each other is tested in `test_workers`."""

import subprocess
import sys


def test_the_api_process_never_imports_torch() -> None:
    code = (
        "import sys, deepergatgnn.service.operations.serve, deepergatgnn.service.http.app, deepergatgnn.commands.main; "
        "sys.exit(sorted(m for m in sys.modules if m.partition('.')[0] in {'torch', 'torch_geometric'})[:3] or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
