"""The README's code runs, as one program, in an empty folder."""

import re
from pathlib import Path

import torch

README = Path(__file__).parent.parent / "README.md"


def test_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert len(blocks) >= 2
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "map.safetensors").exists()
    assert (tmp_path / "run" / "ot.safetensors").exists()
    assert "chi2 0.0" in capsys.readouterr().out
    assert names["T"](names["x"]).shape == (16, 16)
    assert names["solution"].converged


def test_the_first_block_is_short():
    first = re.search(r"```python\n(.*?)```", README.read_text(), re.S).group(1)
    assert len([line for line in first.splitlines() if line.strip()]) <= 15


def test_every_local_link_leads_somewhere():
    for link in re.findall(r"\]\(((?!http|#)[^)]+)\)", README.read_text()):
        assert (README.parent / link).exists(), link
