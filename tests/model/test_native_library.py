"""How the native engine's library is built and found, and what happens without it."""

import os
import platform
import shlex
import shutil
import stat
import sys

import pytest

from model.engines import choice
from model.engines.native import library
from model.errors import EngineError
from model.weights import read_weights

X86_64 = {name: set(features.split()) for name, _, features in library.KINDS["x86_64"]}

needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None or not library.list_kinds(),
    reason="needs a C compiler and a processor that the native engine knows",
)


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No library can be written: files have the names of both folders."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(library, "locate_library", lambda kind: tmp_path / "file" / f"{kind}.so")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    return tmp_path / "file"


@pytest.fixture
def only_the_cache(nowhere, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fcn-segmentation-service"


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Sets CC to a program that refuses the given words, and otherwise runs the compiler."""

    def write(*refused, name="compiler"):
        path = tmp_path / name
        words = " | ".join(f"*{word}*" for word in refused) or "nothing"
        path.write_text(
            f'#!/bin/sh\ncase "$*" in {words}) echo "no such level" >&2; exit 1;; esac\n'
            f'exec {shutil.which("cc")} "$@"\n'
        )
        path.chmod(0o755)
        monkeypatch.setenv("CC", str(path))
        return path

    return write


def test_without_a_compiler_another_engine_is_chosen(
    weights_file, monkeypatch, nowhere, tmp_path, caplog
):
    monkeypatch.setenv("CC", str(tmp_path / "no-compiler"))
    assert choice.choose("auto", "cpu") == "ncnn"
    assert len(caplog.records) == 1
    assert "the native engine is not available" in caplog.text
    with pytest.raises(EngineError, match="choose ncnn"):
        choice.start_engine(read_weights(weights_file), engine="native")


@needs_compiler
def test_the_reason_is_logged_once_if_nothing_can_be_written(weights_file, nowhere, caplog):
    assert choice.choose("auto", "cpu") == "ncnn"
    assert len(caplog.records) == 1
    assert caplog.text.count(f"{nowhere}/fcn-segmentation-service: Not a directory") == 1
    with pytest.raises(EngineError, match=r"choose ncnn: .*Not a directory"):
        choice.start_engine(read_weights(weights_file), engine="native")


@needs_compiler
def test_beside_sources_that_cannot_be_written_to_the_users_cache_has_it(only_the_cache):
    path = library.prepare()
    assert path.parent == only_the_cache
    assert stat.S_IMODE(only_the_cache.stat().st_mode) == 0o700
    library.load(path)
    made = path.stat().st_mtime_ns
    assert library.prepare() == path
    assert path.stat().st_mtime_ns == made  # found, not built again
    assert [entry.name for entry in only_the_cache.iterdir()] == [path.name]


@needs_compiler
def test_a_cache_that_others_can_write_to_is_not_used(only_the_cache):
    only_the_cache.mkdir(parents=True)
    only_the_cache.chmod(0o777)
    path = library.locate_cached_library(library.list_kinds()[0])
    path.write_bytes(b"anything")
    with pytest.raises(EngineError, match="open, to another user"):
        library.prepare()


def test_a_user_without_a_home_has_no_cache(nowhere, monkeypatch):
    monkeypatch.setenv("CC", shlex.quote(sys.executable))  # there may be no compiler
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(EngineError, match="there is no home directory"):
        library.build(library.KINDS[platform.machine()][0][0], library.locate_cached_library("any"))


@needs_compiler
@pytest.mark.skipif(len(library.list_kinds()) < 2, reason="needs a processor that runs two kinds")
def test_the_next_kind_is_built_if_the_compiler_does_not_know_the_best(
    only_the_cache, compiler, caplog
):
    best, second = library.list_kinds()[:2]
    compiler("x86-64-v4")
    assert f"libsegment-{second}" in library.prepare().name
    assert len(caplog.records) == 1
    assert f"{best}: " in caplog.text
    assert "no such level" in caplog.text
    compiler("x86-64", name="no-compiler-at-all")
    with pytest.raises(EngineError, match=rf"{best}, {second}: .*no such level"):
        library.prepare()


@needs_compiler
@pytest.mark.parametrize("name", ["compiler", "a compiler"])
def test_the_compiler_may_have_options_and_a_space_in_its_path(
    only_the_cache, compiler, monkeypatch, name
):
    path = compiler(name=name)
    monkeypatch.setenv("CC", f"'{path}' -pipe")
    library.load(library.prepare())


@needs_compiler
@pytest.mark.skipif(shutil.which("clang") is None, reason="needs Clang")
@pytest.mark.parametrize("kind", library.list_kinds())
def test_clang_builds_every_kind(kind, only_the_cache, monkeypatch):
    monkeypatch.setenv("CC", "clang")
    library.load(library.prepare_kind(kind))


def test_a_processor_has_the_kinds_whose_features_it_lists(monkeypatch, caplog):
    monkeypatch.delenv(library.MAX_KIND, raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(library, "read_features", lambda: {"fpu", "sse2"})
    assert library.list_kinds() == []
    monkeypatch.setattr(library, "read_features", lambda: X86_64["avx2"])
    assert library.list_kinds() == ["avx2"]
    monkeypatch.setattr(library, "read_features", lambda: X86_64["avx2"] | X86_64["avx512"])
    assert library.list_kinds() == ["avx512", "avx2"]
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert library.list_kinds() == []
    assert library.find_library_or_warn() is None
    assert "no kind of it runs on this processor (riscv64)" in caplog.text


def test_the_environment_names_the_best_kind_to_use(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(library, "read_features", lambda: X86_64["avx2"] | X86_64["avx512"])
    for value, kinds in (
        ("avx512", ["avx512", "avx2"]),
        ("avx2", ["avx2"]),
        ("", ["avx512", "avx2"]),
    ):
        monkeypatch.setenv(library.MAX_KIND, value)
        assert library.list_kinds() == kinds
    monkeypatch.setenv(library.MAX_KIND, "sse2")
    with pytest.raises(EngineError, match="NATIVE_MAX_KIND=sse2: the kinds are avx512, avx2"):
        library.prepare()


@needs_compiler
@pytest.mark.skipif("avx2" not in library.list_kinds(), reason="needs AVX2")
def test_the_engine_runs_the_kind_that_the_environment_names(weights_file, monkeypatch):
    monkeypatch.setenv(library.MAX_KIND, "avx2")
    engine = choice.start_engine(read_weights(weights_file), engine="native")
    assert engine.description.startswith("native avx2 ")
