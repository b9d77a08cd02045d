"""Pages of documentation as tests read them: their blocks of code, their links, their headings."""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from processes import REPOSITORY, environment

STUBS = REPOSITORY / "tests" / "stubs"
RUN = ("python", "bash", "console")
"""Languages whose blocks can be run; any other block shows something."""
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+(?:\([^()]*\))?[^()\s]*)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    """As written after the fence, may be empty."""
    text: str
    line: int
    """Its first line, counted from 1."""


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(m["language"], m["text"], text.count("\n", 0, m.start()) + 2)
        for m in FENCE.finditer(text)
    ]


def shell_text(block: Block) -> str:
    """What a shell is given: a console block shows its commands behind `$ `, then their output."""
    if block.language != "console":
        return block.text
    commands, goes_on = [], False
    for line in block.text.splitlines():
        if goes_on or line.startswith("$ "):
            commands.append(line if goes_on else line[2:])
            goes_on = line.endswith("\\")
    return "\n".join(commands)


def run_page(page: Path, folder: Path, seconds: float, only: Sequence[str] = RUN) -> str:
    """Runs the blocks of a page in order, in a folder, in one process; returns what they print.

    Python blocks share their names, as in one session; shell blocks are `bash -eu -o pipefail`.
    Stand-ins of tests/stubs come last on the path: packages that are installed are taken instead.
    """
    steps = [(b.language, b.line, shell_text(b)) for b in blocks_of(page) if b.language in only]
    assert steps, f"{page} has no block of {', '.join(only)}"
    script = folder / f".{page.stem}_page.py"
    script.write_text(DRIVER.format(stubs=str(STUBS), page=page.name, steps=steps))
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, f"{page.name}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


DRIVER = """import subprocess, sys
sys.path.append({stubs!r})
names = {{"__name__": "__main__"}}
for language, line, text in {steps!r}:
    print("# line", line, flush=True)
    if language == "python":
        # Blank lines in front: a traceback names the line of the page.
        exec(compile("\\n" * (line - 1) + text, {page!r}, "exec"), names)
    else:
        shell = ["bash", "-eu", "-o", "pipefail", "-c", text]
        code = subprocess.run(shell).returncode
        if code:
            sys.exit(f"the block of line {{line}} ends with exit code {{code}}")
"""


def prose_of(page: Path) -> str:
    """The page without its blocks and its inline code, where brackets are no links."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return re.sub(r"`[^`\n]*`", "", text)


def links_of(page: Path) -> list[str]:
    """Targets of links and pictures, those to other sites left out."""
    found = LINK.findall(prose_of(page))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    anchors: dict[str, int] = {}
    found = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        again = anchors.get(slug, 0)
        anchors[slug] = again + 1
        found.add(f"{slug}-{again}" if again else slug)
    return found | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))


def broken_links(page: Path) -> list[str]:
    """Links that lead to no file below the repository, or to no heading."""
    broken = []
    for link in links_of(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in anchors_of(target)
        ):
            broken.append(link)
    return broken


def missing_sources(page: Path, root: Path) -> list[str]:
    """Programs and tests of this project that a page names and that are not there.

    Those below tests/, tools/, examples/ and dist_oaa/ by their path; a test by its name alone too.
    """
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"(?<![\w/.-])((?:tests|tools|examples|dist_oaa)/[\w/]+\.py)\b", text)
    gone = [path for path in paths if not (root / path).exists()]
    names = {path.name for path in (root / "tests").rglob("test_*.py")}
    alone = re.findall(r"(?<![\w/.-])(test_\w+\.py)\b", text)
    return gone + [name for name in alone if name not in names]
