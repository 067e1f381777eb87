"""Results that cannot be written are refused in one line, before the work that makes them."""

import pytest

from model import compare, convert, evaluate, shapes, soft_labels, train
from model.errors import OutputError
from model.outputs import require_folder, require_writable


@pytest.fixture
def blocked(tmp_path):
    """A path below a file, where nothing can be written, whoever asks."""
    (tmp_path / "file").touch()
    return tmp_path / "file" / "folder" / "result.safetensors"


def test_a_folder_may_be_made_later_and_nothing_is_left_there(tmp_path):
    require_writable(tmp_path / "new" / "folder" / "w.safetensors", tmp_path / "w", None)
    assert list(tmp_path.iterdir()) == []


def test_a_file_cannot_be_written_over_a_folder_or_below_a_file(tmp_path, blocked):
    with pytest.raises(OutputError, match="is a folder: name a file"):
        require_writable(tmp_path)
    with pytest.raises(OutputError, match=r"nothing can be written into .*: .*Name another place"):
        require_writable(blocked)
    with pytest.raises(OutputError, match="nothing can be written into"):
        require_folder(blocked)


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (train, ["--data", "nothing", "--output"]),
        (convert, ["nothing.pth", "--output"]),
        (soft_labels, ["--images", "nothing", "--output"]),
        (evaluate, ["--data", "nothing", "--json"]),
        (evaluate, ["--data", "nothing", "--output"]),
        (compare, ["a", "b", "--data", "nothing", "--json"]),
        (shapes, ["--output"]),
    ],
)
def test_every_program_says_so_at_once(program, arguments, blocked):
    """The other arguments are wrong, too, and are not even read."""
    with pytest.raises(SystemExit, match="error: nothing can be written into"):
        program.main([*arguments, str(blocked)])


def test_a_run_needs_a_name_that_ends_with_safetensors(tmp_path):
    """Otherwise runs/v1.2 and runs/v1.3 would share a checkpoint."""
    with pytest.raises(SystemExit, match=r"v1\.2: the name of a weights file ends with .safetens"):
        train.main(["--data", "nothing", "--output", str(tmp_path / "v1.2")])
    with pytest.raises(SystemExit, match=r"is a folder: name a .safetensors file in it"):
        train.main(["--data", "nothing", "--output", str(tmp_path)])
