"""The processor's features when /proc/cpuinfo is hidden, or lists none."""

import platform
from pathlib import Path

import pytest

from model.engines.native import library, processor
from model.installation import check_native_engine

TOLD = """
Subdirectories of glibc-hwcaps directories, in priority order:
  x86-64-v4{v4}
  x86-64-v3{v3}
  x86-64-v2 (supported, searched)
"""
SUPPORTED = " (supported, searched)"


@pytest.fixture(params=[None, b"", b"processor\t: 0\n", b"\xff\xfe"])
def hidden(request, monkeypatch, tmp_path):
    """No file, an empty one, one without a list of features, and one that is no text."""
    file = tmp_path / "cpuinfo"
    if request.param is not None:
        file.write_bytes(request.param)
    monkeypatch.setattr(processor, "CPU_INFO", file)


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
    assert "let this process read /proc/cpuinfo" in check_native_engine().remedy


def test_no_compiler_is_recommended_for_a_processor_without_avx2(hidden, monkeypatch, tmp_path):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(processor, "LOADER", loader(tmp_path, TOLD.format(v4="", v3="")))
    found = check_native_engine()
    assert "no kind of it runs on this processor" in found.finding
    assert found.remedy.startswith("it needs a processor with AVX2 or NEON")


def test_arm_needs_no_list_of_features(hidden, monkeypatch):
    monkeypatch.delenv(library.MAX_KIND, raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert library.list_kinds() == ["neon"]
