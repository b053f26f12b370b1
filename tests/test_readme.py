"""The README's code runs, as one program, in an empty folder."""

import re
from pathlib import Path

import pytest
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


@pytest.mark.parametrize("page", sorted((README.parent / "docs").glob("*.md")), ids=lambda p: p.name)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
        exec(compile(block, page.name, "exec"), names)
    assert "solution" not in names or names["solution"].converged


def test_the_first_block_is_short():
    first = re.search(r"```python\n(.*?)```", README.read_text(), re.S).group(1)
    assert len([line for line in first.splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize("page", [README, *sorted((README.parent / "docs").glob("*.md"))], ids=lambda p: p.name)
def test_every_local_link_leads_somewhere(page):
    for link in re.findall(r"\]\(((?!http|#)[^)#]+)", page.read_text()):
        assert (page.parent / link).exists(), link
