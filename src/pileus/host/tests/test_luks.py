from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from pileus.host import luks

MIB = 1 << 20


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-utils")
def test_qemu_reads_back_what_it_wrote_to_a_container_and_only_with_the_passphrase(
    tmp_path: Path,
) -> None:
    path = tmp_path / "container"
    path.write_bytes(luks.header("open sesame", random.SystemRandom()))
    os.truncate(path, luks.HEADER + 8 * MIB)

    def asked(passphrase: str, *commands: str) -> str:
        image = f"driver=luks,key-secret=key,file.filename={path}"
        words = ["qemu-io", "--object", f"secret,id=key,data={passphrase}", "--image-opts", image]
        for command in commands:
            words += ["-c", command]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout

    assert "8 MiB" in asked("open sesame", "length", f"write -P 7 {8 * MIB - 512} 512")
    assert "read 512/512" in asked("open sesame", f"read -P 7 {8 * MIB - 512} 512")
    assert asked("close sesame", "length") == ""
    assert path.stat().st_size == luks.HEADER + 8 * MIB
    assert path.read_bytes()[luks.HEADER :].find(bytes([7]) * 512) == -1


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-utils")
def test_a_container_says_of_itself_what_the_format_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "container"
    path.write_bytes(luks.header("x" * 64, random.SystemRandom()))
    os.truncate(path, luks.HEADER + MIB)
    told = ["qemu-img", "info", "--output=json", "-f", "luks", str(path)]
    info = json.loads(subprocess.run(told, check=True, capture_output=True).stdout)
    said = info["format-specific"]["data"]
    assert (said["cipher-alg"], said["cipher-mode"]) == ("aes-256", "xts")
    assert (said["payload-offset"], said["master-key-iters"]) == (luks.HEADER, 1000)
    assert [slot["active"] for slot in said["slots"]] == [True] + [False] * 7
