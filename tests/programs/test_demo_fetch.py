"""Fetching a pinned wheel: by pip alone, into a private folder, with nothing left behind."""

import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich", reason='needs pip install ".[demo]"')

from cpuattn.demo import staging
from cpuattn.demo.errors import DemoError
from cpuattn.demo.fetch import PinnedWheel, fetch
from downloads import only_from, write_metadata

NAME = "some_name-1.0-py3-none-any.whl"
POPEN = subprocess.Popen
FETCH = """
import sys
from pathlib import Path
from cpuattn.demo.fetch import PinnedWheel, fetch
print(fetch(PinnedWheel("some-name==1.0", sys.argv[1], 1, sys.argv[2]), Path(sys.argv[3])))
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PinnedWheel:
    """A wheel that pip finds in a folder."""
    folder = tmp_path / "shop"
    folder.mkdir()
    with zipfile.ZipFile(folder / NAME, "w") as archive:
        write_metadata(archive, NAME)
    only_from(folder, monkeypatch)
    content = (folder / NAME).read_bytes()
    return PinnedWheel("some-name==1.0", NAME, len(content), hashlib.sha256(content).hexdigest())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_fetched_once(shop: PinnedWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch(shop, tmp_path / "cache")
    assert path == tmp_path / "cache" / NAME
    assert names(path.parent) == [NAME]
    only_from(tmp_path / "nowhere", monkeypatch)
    assert fetch(shop, tmp_path / "cache") == path


def test_relative_cache(shop: PinnedWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert fetch(shop, Path("cache")) == tmp_path / "cache" / NAME


def test_nothing_there_says_what_to_do(
    shop: PinnedWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_from(tmp_path / "nowhere", monkeypatch)
    with pytest.raises(DemoError) as caught:
        fetch(shop, tmp_path / "cache")
    message = str(caught.value)
    assert "could not fetch some-name==1.0\n  ERROR: No matching distribution" in message
    assert "python -m pip download --no-deps some-name==1.0" in message
    assert str(tmp_path / "cache" / NAME) in message
    assert shop.sha256 in message
    assert names(tmp_path / "cache") == []


def test_python_without_pip_says_what_to_do(
    shop: PinnedWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bare"
    bare.write_text(f"#!/bin/sh\nshift 3\nexec {sys.executable} -I -m no_pip_here\n")
    bare.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(DemoError, match=r"No module named no_pip_here(.|\n)*put it here"):
        fetch(shop, tmp_path / "cache")


def test_another_file_is_refused(shop: PinnedWheel, tmp_path: Path) -> None:
    other = PinnedWheel(shop.requirement, NAME, 1, "0" * 64)
    with pytest.raises(DemoError, match=f"SHA-256 found +{shop.sha256}"):
        fetch(other, tmp_path / "cache")
    assert names(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("py3-none-any", []),
        ("py3-none-manylinux_2_34_x86_64", ["--platform=manylinux_2_34_x86_64"]),
        (
            "cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64",
            [
                "--platform=manylinux_2_24_x86_64",
                "--platform=manylinux_2_28_x86_64",
                "--python-version=311",
                "--implementation=cp",
                "--abi=cp311",
            ],
        ),
    ],
)
def test_tags_of_the_file_name(
    tags: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def start(command: list[str], **options: Any) -> Any:
        asked.extend(command)
        return POPEN([sys.executable, "-c", "raise SystemExit('ERROR: no')"], **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    wheel = PinnedWheel("some-name==1.0", f"some_name-1.0-{tags}.whl", 1, "0" * 64)
    with pytest.raises(DemoError) as caught:
        fetch(wheel, tmp_path / "cache")
    assert asked[-1] == "some-name==1.0"
    chosen = ("--platform", "--python-version", "--implementation", "--abi")
    assert [word for word in asked if word.startswith(chosen)] == expected
    by_hand = " ".join(["python -m pip download --no-deps", *expected, "some-name==1.0"])
    assert by_hand in str(caught.value)


@pytest.mark.parametrize("flag", ["-P", "-I", "-B"])
def test_no_module_of_the_current_folder_is_run(
    flag: str, shop: PinnedWheel, tmp_path: Path
) -> None:
    folder = tmp_path / "current"
    folder.mkdir()
    script = tmp_path / "script" / "fetch_it.py"
    script.parent.mkdir()
    script.write_text(FETCH)
    for module_name in ("pip", "zipimport", "urllib3"):
        (folder / f"{module_name}.py").write_text("open('executed', 'w').close(); raise SystemExit")
    # -P and -I leave out the folder of the script, PYTHONPATH is what -I ignores.
    process = subprocess.run(
        [sys.executable, flag, str(script), NAME, shop.sha256, str(tmp_path / "cache")],
        cwd=folder,
        env=os.environ | ({"PYTHONPATH": str(folder)} if flag == "-B" else {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr
    assert names(folder) == ["pip.py", "urllib3.py", "zipimport.py"]


@pytest.mark.parametrize("umask", [0, 0o777])
def test_folders_and_files_are_private(umask: int, shop: PinnedWheel, tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "er" / "cache"
    before = os.umask(umask)
    try:
        path = fetch(shop, cache)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (cache, cache.parent, cache.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_folders_that_are_there_keep_their_mode(shop: PinnedWheel, tmp_path: Path) -> None:
    cache = tmp_path / "shared"
    cache.mkdir()
    cache.chmod(0o755)
    fetch(shop, cache / "cpuattn")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o755


def kill_while_pip_waits(tmp_path: Path, cache: Path, number: int) -> subprocess.Popen[bytes]:
    """Start a fetch whose pip never ends, and end it by a signal; pip lives on."""
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'import time; time.sleep(60)'\n")
    slow.chmod(0o700)
    script = f"import sys; sys.executable = {str(slow)!r}\n{FETCH}"
    process = subprocess.Popen([sys.executable, "-c", script, NAME, "0" * 64, str(cache)])
    end = time.monotonic() + 60
    while not list(cache.glob("*/pip.log")) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(number)
    process.wait()
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_runs_leave_nothing_for_ever(number: int, shop: PinnedWheel, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    kill_while_pip_waits(tmp_path, cache, number)
    (left,) = cache.iterdir()
    # What pip, which lives on, still writes to is not removed under it.
    staging.remove_dead(cache)
    assert left.exists()
    holders = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _runs_in(entry, left)
    ]
    assert len(holders) == 1
    os.kill(holders[0], signal.SIGKILL)
    end = time.monotonic() + 60
    while left.exists() and time.monotonic() < end:
        fetch(shop, cache)
    assert names(cache) == [NAME]


def _runs_in(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").readlink() == folder
    except OSError:
        return False


def test_folders_in_use_stay(tmp_path: Path) -> None:
    with staging.staging_folder(tmp_path) as (mine, _):
        staging.remove_dead(tmp_path)
        assert mine.exists()
        with staging.staging_folder(tmp_path) as (other, _):
            assert other != mine
    assert names(tmp_path) == []


def test_folder_without_a_lock_is_left_for_a_while(tmp_path: Path) -> None:
    folder = tmp_path / "fetch-old"
    folder.mkdir()
    staging.remove_dead(tmp_path)
    assert folder.exists()
    long_ago = time.time() - 2 * staging.UNLOCKED_SECONDS
    os.utime(folder, (long_ago, long_ago))
    staging.remove_dead(tmp_path)
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_other_than_files_do_not_hang(kind: str, shop: PinnedWheel, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    if kind == "pipe":
        os.mkfifo(cache / NAME)
    elif kind == "device":
        (cache / NAME).symlink_to("/dev/zero")
    else:
        (cache / NAME).mkdir()
    with pytest.raises(DemoError, match="not a regular file: delete it and run again"):
        fetch(shop, cache)


def test_pip_that_leaves_a_pipe_does_not_hang(
    shop: PinnedWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(command: list[str], **options: Any) -> Any:
        os.mkfifo(Path(command[command.index("--dest") + 1]) / NAME)
        return POPEN([sys.executable, "-c", ""], **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(DemoError, match="not a regular file"):
        fetch(shop, tmp_path / "cache")


def test_cache_that_is_a_file(shop: PinnedWheel, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(DemoError, match=r"cannot use the cache .*\(see --cache\)"):
        fetch(shop, tmp_path / "cache")
