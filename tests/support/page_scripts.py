"""Run scripts of the static page in Node.js."""

import json
import shutil
import subprocess
from typing import Any

from coca.release.browser.static_page import PAGE

NODE = shutil.which("node")


def node(script: str, given: Any) -> Any:
    """Run a module that reads JSON as `given`, and return what it prints as JSON."""
    code = (
        'import { readFileSync } from "node:fs";\n'
        'const given = JSON.parse(readFileSync(0, "utf8"));\n' + script.replace("PAGE", str(PAGE))
    )
    done = subprocess.run(
        [str(NODE), "--no-warnings", "--input-type=module", "-e", code],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
