from dataclasses import asdict, replace

import pytest

from model.errors import RecipeError
from model.training.options import build_parser, choose_recipe
from model.training.recipe import PRESETS


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
        ("epochs = -1", "-1 epochs"),
        ("crop = [60, 64]", "a crop of 60 x 64"),
        ("soft_weight = 2.0", "a soft weight of 2.0"),
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
