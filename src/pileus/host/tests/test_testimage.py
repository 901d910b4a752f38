"""The parts of the test image's recipe that can be asked without baking it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pileus.host import testimage
from pileus.host.testimage import Cpio, Modules, setuid_program


def test_the_setuid_program_runs_its_script_with_its_own_arguments(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('#!/bin/sh\necho "$HELLO" "$#" "$2"\n')
    script.chmod(0o755)
    program = tmp_path / "program"
    program.write_bytes(setuid_program(str(script)))
    program.chmod(0o755)
    said = subprocess.run(
        [str(program), "one", "two words"], capture_output=True, env={"HELLO": "from"}, check=True
    )
    assert said.stdout == b"from 2 two words\n"


def test_the_setuid_program_fails_as_a_shell_would_when_its_script_is_gone(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(setuid_program("/nowhere/at/all"))
    program.chmod(0o755)
    assert subprocess.run([str(program)]).returncode == 126


def test_modules_come_after_those_they_need(tmp_path: Path) -> None:
    kernel = tmp_path / "usr/lib/modules/6.1-test/kernel"
    kernel.mkdir(parents=True)
    for name, needs in (("a-b", "c,d"), ("c", "d,built-in"), ("d", ""), ("lone", "")):
        (kernel / f"{name}.ko").write_bytes(b"\0depends=" + needs.encode() + b"\0")
    (kernel.parent / "modules.builtin").write_text("kernel/x/built-in.ko\n")
    modules = Modules(tmp_path)
    assert modules.closure(["a_b", "unheard_of"]) == ["d", "c", "a_b"]
    assert modules.version == "6.1-test"


def test_an_archive_is_one_that_the_kernel_reads() -> None:
    archive = Cpio()
    archive.add("init", b"abc", 0o100755)
    data = archive.end()
    assert len(data) % 4 == 0
    assert data.startswith(b"070701" + b"00000001" + b"000081ED")
    assert data[110:115] == b"init\0"
    assert data[116:119] == b"abc"
    assert b"TRAILER!!!\0" in data


def test_the_recipe_changes_with_the_files_of_the_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = testimage.recipe_hash()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/issue").write_text("hello")
    monkeypatch.setattr(testimage, "_TREE", tmp_path)
    after = testimage.recipe_hash()
    (tmp_path / "etc/issue").write_text("goodbye")
    assert len({before, after, testimage.recipe_hash()}) == 3
