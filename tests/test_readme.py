"""The README keeps its word: its Python runs, its commands parse, its make targets exist."""

import doctest
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pyro
import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
pytestmark = pytest.mark.skipif(not README.exists(), reason="there is no README.md yet")


class Block(NamedTuple):
    kind: str  # what follows the opening fence
    line: int  # of README.md, of the first line inside
    text: str


def blocks(*kinds: str) -> list[Block]:
    text = README.read_text()
    fences = re.finditer(r"^```(\S[^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found = [Block(m[1].strip(), text.count("\n", 0, m.start(2)) + 1, m[2]) for m in fences]
    return [block for block in found if block.kind in kinds]


def commands() -> list[str]:
    """Every shell command: in a console block what follows the prompt, in an sh block every line."""
    lines = []
    for block in blocks("console", "sh", "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if block.kind != "console" or line.startswith("$ "):
                lines.append(line.removeprefix("$ "))
    return lines


def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    """One namespace, as for a reader who pastes them one by one; a block fenced `python no-run` is left out."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    report: list[str] = []
    with pyro.get_param_store().scope():  # a reader's stock SVI fills it
        for block in blocks("python"):
            if ">>>" in block.text:
                test = doctest.DocTestParser().get_doctest(block.text, {}, "README.md", str(README), block.line - 1)
                test.globs = namespace
                runner.run(test, out=report.append, clear_globs=False)
            else:
                source = "\n" * (block.line - 1) + block.text  # so that a traceback names the line of README.md
                exec(compile(source, str(README), "exec"), namespace)
    assert not runner.failures, "".join(report)


def test_commands_parse(capsys):
    cli = pytest.importorskip("pyrovae.cli", reason="the command is not there yet")
    for command in commands():
        words = shlex.split(command, comments=True)
        while words and re.match(r"\w+=", words[0]):  # VARIABLE=value before the command
            words.pop(0)
        if not words or Path(words[0]).name != "pyrovae":
            continue
        ends = [i for i, word in enumerate(words) if word in ("|", ">", ">>", "&&", ";", "&")]
        try:
            cli.build_parser().parse_args(words[1 : min(ends, default=None)])
        except SystemExit as stop:  # 0 after --help
            if stop.code:
                pytest.fail(f"{command}\n{capsys.readouterr().err}")


def test_make_targets_exist():
    named = set(re.findall(r"(?:^|`|\$ |&& )make ([a-z][\w-]*)", README.read_text(), re.MULTILINE))
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named <= targets
