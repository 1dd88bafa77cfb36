import errno
import os
import resource
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseact.errors import InputError
from sparseact.utils.files import write_atomically


def test_file_appears_only_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "folder" / "table.csv"
    with write_atomically(target) as temporary:
        temporary.write_text("a,b\n")
        assert temporary.parent == target.parent
        assert not target.exists()
    assert target.read_text() == "a,b\n"
    assert os.listdir(target.parent) == ["table.csv"]


@pytest.mark.parametrize("name", ["curve.png", "scores.safetensors", "no_suffix"])
def test_temporary_name_keeps_the_suffix(tmp_path, name):
    with write_atomically(tmp_path / name) as temporary:
        assert temporary.suffix == (tmp_path / name).suffix
        assert temporary.name != name
        temporary.touch()


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_after_an_error_the_earlier_file_stands_and_nothing_else(tmp_path, stop):
    target = tmp_path / "meta.json"
    target.write_text("earlier")
    with pytest.raises(stop), write_atomically(target) as temporary:
        temporary.write_text("half of the n")
        raise stop
    assert target.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["meta.json"]


@given(content=st.binary(max_size=300))
def test_bytes_come_back_as_written(tmp_path_factory, content):
    target = tmp_path_factory.mktemp("bytes") / "x.bin"
    for earlier in (b"", content):
        with write_atomically(target) as temporary:
            temporary.write_bytes(earlier)
    assert target.read_bytes() == content


def test_a_folder_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="out: this is a folder, not a file"), write_atomically(tmp_path / "out"):
        pytest.fail("the block must not run")


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(InputError, match="a part of the path is a file"),
        write_atomically(tmp_path / "file" / "a.csv"),
    ):
        pytest.fail("the block must not run")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError('Error while serializing: IoError(Os { code: 28, message: "No space left on device" })'),
    ],
)
def test_no_space_is_one_line_and_the_earlier_file_stands(tmp_path, error):
    target = tmp_path / "scores.safetensors"
    target.write_text("earlier")
    with pytest.raises(InputError) as caught, write_atomically(target) as temporary:
        temporary.write_text("half")
        raise error
    assert (
        str(caught.value) == f"cannot write {target}: no space left on the device; what stood there before is unchanged"
    )
    assert target.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["scores.safetensors"]


def test_a_write_that_the_system_refuses_leaves_the_earlier_file(tmp_path):
    """The system itself cuts the write short here: the limit on file sizes is 4 KiB."""
    target = tmp_path / "big.bin"
    target.write_bytes(b"earlier")
    script = (
        "import sys\nfrom sparseact.utils.files import write_atomically\n"
        "with write_atomically(sys.argv[1]) as path: path.write_bytes(bytes(65536))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(target)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert "InputError: cannot write" in done.stderr
    assert "larger than this system allows" in done.stderr
    assert target.read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == ["big.bin"]


def test_other_faults_pass_through(tmp_path):
    with pytest.raises(OSError, match="Input/output error") as caught, write_atomically(tmp_path / "x"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert not isinstance(caught.value, InputError)


def test_what_a_killed_process_left_is_removed_by_the_next_and_that_of_a_living_one_is_not(tmp_path):
    lines = [
        "import os",
        "from sparseact.utils.files import write_atomically",
        "with write_atomically('a.json') as path:",
    ]
    lines += ["    path.touch()", "    os.kill(os.getpid(), 9)"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, check=False)
    (left,) = os.listdir(tmp_path)
    alive = left.replace(left.split("-")[-2], str(os.getppid()))
    for name in (alive, left.replace("a.json", "b-a.json"), ".partial-elsewhere-1-a.json"):
        (tmp_path / name).touch()
    with write_atomically(tmp_path / "a.json") as path:
        path.touch()
    assert left not in os.listdir(tmp_path)
    assert len(os.listdir(tmp_path)) == 4
