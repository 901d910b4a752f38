from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from pileus.host import qed

GIB = 1 << 30


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-utils")
@pytest.mark.parametrize("size", [512, GIB, (1 << 44) - 4096])
def test_qemu_finds_no_fault_with_a_fresh_overlay(size: int, tmp_path: Path) -> None:
    behind, over = tmp_path / "behind", tmp_path / "over"
    behind.write_bytes(b"a backing file".ljust(512, b"\0"))
    over.touch()
    qed.lay_over(over, "behind", "raw", size)
    checked = ["qemu-img", "check", "--output=json", "-f", "qed", str(over)]
    found = json.loads(subprocess.run(checked, check=True, capture_output=True).stdout)
    assert (found.get("leaks", 0), found.get("corruptions", 0), found["check-errors"]) == (0, 0, 0)
    told = ["qemu-img", "info", "--output=json", "-f", "qed", str(over)]
    info = json.loads(subprocess.run(told, check=True, capture_output=True).stdout)
    assert (info["virtual-size"], info["backing-filename"]) == (size, "behind")
    assert info["backing-filename-format"] == "raw" and info["actual-size"] < 64 << 10
    write = ["qemu-io", "-f", "qed", "-c", "write -P 7 0 512", "-c", "read -P 7 0 512", str(over)]
    subprocess.run(write, check=True, capture_output=True)
    subprocess.run(checked, check=True, capture_output=True)
