"""What a machine needs is read from the sources, never listed twice."""

from pathlib import Path

from pileus.cli import needs, packages


def test_a_module_declares_the_packages_of_the_programs_it_starts(tmp_path: Path) -> None:
    (tmp_path / "qemu.py").write_text(
        'import broken\nDEBIAN_PACKAGES = ("qemu-utils", "postgresql")\n'
    )
    (tmp_path / "plain.py").write_text("x = 1\n")
    (tmp_path / "testing").mkdir()
    (tmp_path / "testing" / "server.py").write_text('DEBIAN_PACKAGES = ("slapd",)\n')
    found = {*needs.ALWAYS, "qemu-utils", "postgresql"}
    assert needs.needs(tmp_path) == sorted(found)
    assert needs.needs(tmp_path, tests=True) == sorted({*found, "slapd"})


def test_an_annotated_declaration_is_read_too() -> None:
    source = 'DEBIAN_PACKAGES: tuple[str, ...] = ("haproxy",)\n'
    assert needs.declared(source) == ("haproxy",)


def test_a_package_that_dpkg_does_not_know_is_missing_and_named_once() -> None:
    absent = "no-such-package-of-debian"
    assert packages.missing([absent, "dpkg", absent]) == [absent]


def test_every_declared_package_is_a_name_of_debian() -> None:
    assert all(name == name.lower() and " " not in name for name in needs.needs(tests=True))
