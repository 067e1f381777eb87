"""docs/ray.md agrees with the code: arguments, settings, names, the file for `serve deploy`."""

import re

import pytest
import yaml

from app.settings import PREFIX, Settings
from tests.conftest import REPOSITORY

pytest.importorskip("ray", reason="needs the extra ray")

from ray.serve.schema import ServeDeploySchema

from app.ray.application import Options, build_application

PAGE = (REPOSITORY / "docs" / "ray.md").read_text()


def test_the_arguments_are_those_of_the_application():
    listed = re.findall(r"^- `(\w+)`, default `(\S+)`: (.*)$", PAGE, re.M)
    own = [
        (name, f"{field.default:g}", field.description)
        for name, field in Options.model_fields.items()
    ]
    assert listed == own


def test_every_variable_is_a_setting():
    named = set(re.findall(r"\bSEG_\w+", PAGE))
    assert named <= {PREFIX + name.upper() for name in Settings.model_fields}


def test_the_file_for_serve_deploy_is_valid_and_names_what_there_is():
    (text,) = re.findall(r"^```yaml\n(proxy_location.*?)^```", PAGE, re.M | re.S)
    (application,) = ServeDeploySchema(**yaml.safe_load(text)).applications
    module, _, name = application.import_path.partition(":")
    namespace = {}
    exec((REPOSITORY / f"{module.replace('.', '/')}.py").read_text(), namespace)
    assert namespace[name] is build_application
    assert f"fcn_service.{build_application.__module__}:{build_application.__name__}" in PAGE
    Options(**application.args)


def test_the_command_names_arguments():
    (command,) = re.findall(r"^serve run (.*)$", PAGE, re.M)
    path, *arguments = command.split()
    assert path == "deploy.ray_serve:app"
    assert {argument.partition("=")[0] for argument in arguments} <= Options.model_fields.keys()
