from argparse import ArgumentError, ArgumentParser
from dataclasses import asdict, replace
from typing import get_args, get_type_hints

import pytest

from model.arguments import add_scaling_option
from model.errors import RecipeError
from model.scaling import scale_to
from model.training.bounds import BOUNDS
from model.training.explanations import EXPLANATIONS
from model.training.options import build_parser, choose_recipe
from model.training.recipe import PRESETS, Recipe


def recipe_of(*arguments):
    return choose_recipe(build_parser(None).parse_args(["--data", ".", *map(str, arguments)]))


def test_without_options_a_recipe_is_the_preset():
    assert recipe_of() == PRESETS["default"]
    assert recipe_of("--preset", "d2l") == PRESETS["d2l"]


def test_every_number_of_a_recipe_has_an_option():
    """A preset with all values of another preset as options is the other preset."""
    arguments = []
    for name, value in asdict(PRESETS["d2l"]).items():
        flag = name.replace("_", "-")
        if name == "name":
            continue
        if isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            arguments += [f"--{flag}", *(value if isinstance(value, tuple) else [value])]
    assert recipe_of(*arguments) == replace(PRESETS["d2l"], name="default")


@pytest.mark.parametrize("options", [["--no-augment"], ["--preset", "d2l"]])
def test_soft_labels_of_views_that_have_none_are_refused(options):
    with pytest.raises(RecipeError, match="--soft-labels needs --augment"):
        recipe_of("--soft-labels", "soft", *options)
    assert recipe_of("--soft-labels", "soft").augment


def test_the_help_explains_every_option_with_its_default():
    text = " ".join(build_parser(None).format_help().split())
    assert EXPLANATIONS.keys() == asdict(PRESETS["default"]).keys() - {"name"}
    for explanation in EXPLANATIONS.values():
        assert f"{explanation} (default: " in text
    assert "--epochs N passes over the images (default: 30; d2l: 5)" in text
    assert "(default: 320 320; d2l: 320 480)" in text
    assert "Nesterov's momentum (default: yes; d2l: no)" in text
    assert "%%" not in text


def test_a_recipe_file_overrides_the_preset_and_options_override_the_file(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('epochs = 7\ncrop = [64, 96]\nlr = 0.5\nfrozen = ["conv1"]\n')
    found = recipe_of("--recipe", path, "--lr", 0.25)
    assert found == replace(PRESETS["default"], epochs=7, crop=(64, 96), lr=0.25, frozen=("conv1",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ", "cannot be read as TOML"),
        ("epoch = 3", "unknown epoch; a recipe has architecture, augment"),
        ("epochs = -1", "epochs is -1: 0 or more expected"),
        ("crop = [60, 64]", "a crop of 60 x 64"),
        ("soft_weight = 2.0", "soft_weight is 2: 0 to 1 expected; set it with --soft-weight"),
        ("lr = -0.1", "lr is -0.1: 0 or more expected; set it with --lr"),
        ("lr_pretrained = inf", "lr_pretrained is inf"),
        ("momentum = 1.0", "momentum is 1: 0 to less than 1 expected"),
        ("momentum = 0.0", "nesterov needs momentum"),
        ("weight_decay = -1e-4", "weight_decay is -0.0001"),
        ("warmup_steps = -1", "warmup_steps is -1"),
        ("scale = [0, 2]", "scale is 0: more than 0 expected"),
        ("scale = [2, 1]", "scale is 2 to 1: the smaller bound comes first"),
        ("class_weights = [1.0, -1.0]", "class_weights is -1"),
        ("boundary_weight = nan", "boundary_weight is nan"),
        ("hard_share = 0.0", "hard_share is 0: more than 0 to 1 expected"),
        ('frozen = ["layer9"]', "layer9"),
        ("epochs = 1.5", "epochs"),
        ('lr = "fast"', "lr"),
    ],
)
def test_a_wrong_recipe_file_is_refused(tmp_path, text, message):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        recipe_of("--recipe", path)


def test_every_number_of_a_recipe_has_bounds():
    """All but the crop, whose sides are multiples of the network's stride."""
    numbers = {name for name, hint in get_type_hints(Recipe).items() if has_numbers(hint)}
    assert numbers - {"crop"} == BOUNDS.keys()


def has_numbers(hint):
    return hint in (int, float) or bool({int, float} & set(get_args(hint)))


@pytest.mark.parametrize(
    "option", ["--seed", "--val-seed", "--workers", "--val-every", "--checkpoint-steps"]
)
def test_negative_counts_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        recipe_of(option, -1)
    assert f"argument {option}: -1: 0 or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "side"), [("0", 0), ("32", 32), ("-480", None), ("31", None), ("all", None)]
)
def test_a_longer_side_is_zero_or_at_least_one_cell(text, side):
    parser = ArgumentParser(exit_on_error=False)
    add_scaling_option(parser)
    if side is None:
        with pytest.raises(ArgumentError, match=text):
            parser.parse_args([f"--max-side={text}"])
    else:
        assert parser.parse_args([f"--max-side={text}"]).scaling == scale_to(side)
