"""What the README shows, run. Its two shell lines are run by the gate."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tinyunet.__main__ import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_runs(code: str) -> None:
    names: dict[str, object] = {}
    exec(code, names)
    assert names["probabilities"].shape == (92, 92, 2)


def test_files_and_pictures_exist() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    paths = re.findall(r"^\| `(.*?)` \|", README, re.MULTILINE)
    assert links
    assert paths
    for name in links + [part for path in paths for part in path.split("`, `")]:
        assert list((ROOT / name).parent.glob(Path(name).name)) or list((ROOT / "tinyunet").glob(name)), name


def test_commands_exist() -> None:
    assert set(re.findall(r"python -m tinyunet\.(\w+)", README)) <= set(COMMANDS)
