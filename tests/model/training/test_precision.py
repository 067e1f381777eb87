"""Whether a run multiplies bfloat16: as its recipe says, or where the processor has it."""

import platform
from dataclasses import replace

import pytest
import torch

from model.engines.native.processor import CPU_INFO
from model.training.precision import should_autocast
from model.training.recipe import PRESETS

CPU = torch.device("cpu")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_recipe_that_names_its_precision_has_it_on_every_processor(precision):
    recipe = replace(PRESETS["default"], precision=precision)
    assert should_autocast(recipe, CPU) == (precision == "bfloat16")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the features have other names")
def test_a_processor_with_bfloat16_uses_it_without_being_asked():
    """AVX512_BF16 is enough; AMX is faster still."""
    told = CPU_INFO.read_text() if CPU_INFO.is_file() else ""
    features = set(told.split())
    if not features & {"avx512_bf16", "amx_bf16"}:
        pytest.skip("this processor has no bfloat16, or does not say so")
    assert PRESETS["default"].precision == "auto"
    assert should_autocast(PRESETS["default"], CPU)
