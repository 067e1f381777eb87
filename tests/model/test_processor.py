"""The processor's features when /proc/cpuinfo is hidden."""

import platform
from pathlib import Path

import pytest

from model.engines.native import library, processor

TOLD = """
Subdirectories of glibc-hwcaps directories, in priority order:
  x86-64-v4{v4}
  x86-64-v3{v3}
  x86-64-v2 (supported, searched)
"""
SUPPORTED = " (supported, searched)"


@pytest.fixture
def hidden(monkeypatch, tmp_path):
    monkeypatch.setattr(processor, "CPU_INFO", tmp_path / "cpuinfo")


def loader(folder, text):
    """A program that prints this as the loader's help."""
    path = folder / "ld.so"
    path.write_text(f"#!/bin/sh\ncat <<END\n{text}END\n")
    path.chmod(0o755)
    return path


@pytest.mark.skipif(not processor.CPU_INFO.is_file(), reason="needs /proc/cpuinfo to compare with")
@pytest.mark.skipif(
    platform.machine() == "x86_64" and not processor.LOADER.is_file(), reason="glibc"
)
def test_the_loader_tells_the_same_kind_as_cpuinfo(hidden, monkeypatch):
    told = library.list_kinds()
    monkeypatch.setattr(processor, "CPU_INFO", Path("/proc/cpuinfo"))
    assert told == library.list_kinds()


@pytest.mark.parametrize(
    ("v4", "v3", "kinds"),
    [(SUPPORTED, SUPPORTED, ["avx512", "avx2"]), ("", SUPPORTED, ["avx2"]), ("", "", [])],
)
def test_the_levels_that_the_loader_tells_are_the_kinds(
    hidden, monkeypatch, tmp_path, v4, v3, kinds
):
    monkeypatch.delenv(library.MAX_KIND, raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(processor, "LOADER", loader(tmp_path, TOLD.format(v4=v4, v3=v3)))
    assert library.list_kinds() == kinds


@pytest.mark.parametrize("text", ["Usage: ld.so [OPTION]... EXECUTABLE-FILE\n", None])
def test_the_log_says_why_the_slower_engine_runs_if_features_are_unknown(
    hidden, monkeypatch, tmp_path, caplog, text
):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(processor, "LOADER", loader(tmp_path, text) if text else tmp_path / "no")
    assert processor.read_features() is None
    assert library.find_library_or_warn() is None
    assert "the native engine is not available: " in caplog.text
    assert "cannot tell what this processor can do" in caplog.text


def test_arm_needs_no_list_of_features(hidden, monkeypatch):
    monkeypatch.delenv(library.MAX_KIND, raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert library.list_kinds() == ["neon"]
