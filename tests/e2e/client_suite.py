"""The functional tests that python-openstackclient brings in its wheel; run in the clients' venv, in a folder with a
`clouds.yaml`. Arguments: test modules. Prints the outcome of each test as JSON.

Tests and client are unmodified, but a command is run in this process: starting Python for each costs ten times more.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import sys
import unittest
from typing import Any

from openstackclient import shell
from openstackclient.tests.functional import base
from tempest.lib import exceptions


def execute(command: str, *, fail_ok: bool = False) -> str:
    """What the command printed."""
    _, *arguments = shlex.split(command)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        client = shell.OpenStackShell()
        client.stdout, client.stderr = out, err
        try:
            status = client.run(arguments)
        except SystemExit as end:
            status = end.code
    if status and not fail_ok:
        raise exceptions.CommandFailed(status, command, out.getvalue(), err.getvalue())
    return out.getvalue()


class Outcomes(unittest.TestResult):
    def __init__(self) -> None:
        super().__init__()
        self.passed: list[str] = []

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.passed.append(test.id())


def main() -> None:
    for name in [name for name in os.environ if name.startswith("OS_")]:
        del os.environ[name]
    base.execute = execute
    found = Outcomes()
    unittest.defaultTestLoader.loadTestsFromNames(sys.argv[1:]).run(found)
    told: dict[str, Any] = {
        "passed": found.passed,
        "skipped": {test.id(): why for test, why in found.skipped},
        "failed": {test.id(): text[-1500:] for test, text in found.failures + found.errors},
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
