"""python-openstackclient's own functional tests of identity, out of its wheel."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import yaml

from pileus.testing.running import RunningCloud, running
from tests.e2e.shell import client_venv

SUITE = Path(__file__).parent / "client_suite.py"
IDENTITY = "openstackclient.tests.functional.identity.v3"
AT_LEAST = 138  # tests of the version that is pinned


def test_the_standard_clients_functional_tests_of_identity_pass(tmp_path: Path) -> None:
    with running(tmp_path / "state") as cloud:
        (tmp_path / "clouds.yaml").write_text(clouds(cloud))
        venv = client_venv()
        [folder] = venv.glob(f"lib/python3*/site-packages/{IDENTITY.replace('.', '/')}")
        modules = sorted(f"{IDENTITY}.{file.stem}" for file in folder.glob("test_*.py"))
        done = subprocess.run(
            [str(venv / "bin" / "python"), "-W", "ignore", str(SUITE), *modules],
            cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if not k.startswith("OS_")},
            capture_output=True,
            text=True,
            timeout=900,
            check=True,
        )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failed"] == {} and found["skipped"] == {}
    assert len(found["passed"]) >= AT_LEAST


def clouds(cloud: RunningCloud) -> str:
    """The administrator on his project and on the system, by the names that the tests know."""
    env = cloud.environment()
    who = {
        "auth_url": env["OS_AUTH_URL"],
        "username": env["OS_USERNAME"],
        "password": env["OS_PASSWORD"],
        "user_domain_name": env["OS_USER_DOMAIN_NAME"],
    }
    project = {
        "project_name": env["OS_PROJECT_NAME"],
        "project_domain_name": env["OS_PROJECT_DOMAIN_NAME"],
    }
    scopes = {"devstack-admin": project, "devstack-system-admin": {"system_scope": "all"}}
    known = {
        name: {
            "auth": {**who, **scope},
            "region_name": env["OS_REGION_NAME"],
            "identity_api_version": 3,
        }
        for name, scope in scopes.items()
    }
    return str(yaml.safe_dump({"clouds": known}))
