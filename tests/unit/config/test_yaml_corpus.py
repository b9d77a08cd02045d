"""Settings that are bombs, of other types, huge, endless or not numbers: a sentence each."""

import resource
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.load import parse_config, print_error
from dist_oaa.config.model import OptimConfig
from dist_oaa.config.yaml_text import MOST_NODES, check_yaml, load_yaml


@dataclass(kw_only=True)
class Few:
    """Enough settings to have each type."""

    seed: int = 0
    """A seed."""
    run_dir: str = ""
    """A folder."""
    data: DataConfig = field(default_factory=DataConfig)
    """Data"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser"""


def layers(first: str, count: int = 9) -> str:
    """Lists that name the one before ten times each: ten to the power of `count` values."""
    lines = [f"a0: &a0 [{', '.join([first] * 10)}]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, count)]
    return "\n".join(lines) + "\n"


REFUSED = {
    "billion laughs": (layers("x"), "stands for more than"),
    "laughs in a value": (
        f"data: {{classes: [&a [{'x,' * 900}], {'*a,' * 900}]}}",
        "stands for more",
    ),
    "refers to itself": ("data: &a {augment: *a}", "of what it is part of"),
    "list of itself": ("data: {classes: &a [*a]}", "of what it is part of"),
    "deep list": ("data: {classes: " + "[" * 5000 + "]" * 5000 + "}", "levels deep"),
    "deep mapping": ("{a: " * 5000 + "1" + "}" * 5000, "levels deep"),
    "deep in blocks": ("".join(" " * i + "a:\n" for i in range(200)), "levels deep"),
    "python object": ("seed: !!python/object/apply:os.system ['true']", "no valid YAML"),
    "python name": ("run_dir: !!python/name:os.system", "no valid YAML"),
    "python module": ("run_dir: !!python/module:os", "no valid YAML"),
    "own tag": ("seed: !foo 3", "no valid YAML"),
    "bytes": ("run_dir: !!binary aGVsbG8=", "run_dir"),
    "class path": ("data: {class_path: os.system, init_args: {command: ls}}", "class_path"),
    "another class": ("optim: subprocess.Popen", "optim"),
    "key twice": ("seed: 1\nseed: 2", "line 2: the key 'seed' a second time"),
    "nested key twice": ("optim: {lr: 1, lr: 2}", "the key 'lr' a second time"),
    "5000 digits": ("seed: " + "9" * 5000, "thousands of digits"),
    "40 digits": ("seed: " + "9" * 40, "seed is 9999"),
    "negative seed": ("seed: -1", "seed is -1"),
    "huge batch": (f"optim: {{batch_size: {10**20}}}", "optim.batch_size is 1000"),
    "huge image": ("data: {size: 1000000000}", "data.size is 1000000000"),
    "many workers": ("data: {workers: 100000}", "data.workers is 100000"),
    "huge crop": ("data: {augment: {crop: 1000000000}}", "data.augment.crop"),
    "not a number": ("data: {pixel_limit: .nan}", "data.pixel_limit is nan"),
    "infinite": ("data: {max_aspect: .inf}", "data.max_aspect is inf"),
    "infinite in a list": ("optim: {multipliers: [1, 2, .inf, 3]}", "optim.multipliers is inf"),
    "twenty thousand classes": ("data: {classes: [" + "x, " * 20_000 + "]}", "20,000 entries"),
    "twenty thousand keys": ("".join(f"k{i}: 1\n" for i in range(20_000)), "20,000 entries"),
    "a line break": ('run_dir: "a\\nb"', "run_dir is 'a\\nb'"),
    "an escape": ('run_dir: "\\e[2J"', "control characters"),
    "a megabyte": ("run_dir: " + "x" * 1_000_000, "at most 4096 characters"),
    "a name too long": ("data: {labels: " + "x" * 300 + "}", "at most 255 bytes"),
    "five megabytes": ("# " + "x" * 5_000_000, "longer than"),
    "true is no count": ("seed: true", "expected a value of type int"),
    "list is no count": ("seed: [1]", "expected a value of type int"),
    "a number as key": ("1: 2", "must be a string"),
    "a list as key": ("? [a]\n: 2", "no valid YAML"),
    "two documents": ("seed: 1\n---\nseed: 2", "no valid YAML"),
    "NUL": ("seed: 1\0", "no valid YAML"),
    "open quote": ("run_dir: 'x", "no valid YAML"),
    "nothing": ("", "holds no settings"),
    "a list": ("- 1", "holds no settings"),
    "UTF-16": ("seed: 1".encode("utf-16"), "not UTF-8"),
    "no text": (b"\xff\xfe\xfa\0", "not UTF-8"),
}  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_file_is_one_sentence(tmp_path, name):
    content, expected = REFUSED[name]
    path = tmp_path / "settings.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        parse_config(Few, "oaa test", ["--config", str(path)])
    sentence = str(caught.value)
    assert expected in sentence
    assert str(path) in sentence
    assert sentence.isprintable()


@pytest.mark.parametrize("argument", ["--data.classes=" + "[" * 900, "--data.classes=&a [*a]"])
def test_a_bomb_on_the_command_line(argument):
    with pytest.raises(UserError, match="command line"):
        parse_config(Few, "oaa test", [argument + "]" * 900 if argument[-1] == "[" else argument])


@pytest.mark.parametrize(
    ("content", "seed"),
    [
        (b"\xef\xbb\xbfseed: 3\r\noptim: {lr: 0.5}\r\n", 3),
        (b"seed: &s 3\noptim: {epochs: *s}\n", 3),
        (b"<<: {seed: 4}\nrun_dir: x\n", 4),
        (b"seed: 9223372036854775807\n", 2**63 - 1),
        ("run_dir: ü 😀\n".encode(), 0),
        (b"data: {classes: [" + b"x, " * 900 + b"y]}", 0),
    ],
)
def test_files_that_are_odd_but_settings(tmp_path, content, seed):
    (tmp_path / "s.yaml").write_bytes(content)
    assert parse_config(Few, "oaa test", ["--config", str(tmp_path / "s.yaml")]).seed == seed


def expanded(value: object) -> int:
    """Values that a structure holds, keys included."""
    if isinstance(value, dict):
        return 1 + sum(1 + expanded(item) for item in value.values())
    return 1 + sum(map(expanded, value)) if isinstance(value, list) else 1


trees = st.recursive(
    st.integers() | st.text(max_size=5) | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(trees)
def test_what_yaml_writes_passes_and_comes_back(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "tree.yaml"
    path.write_text(yaml.safe_dump(tree))
    assert load_yaml(path) == tree


@given(st.integers(1, 30), st.integers(1, 4), st.integers(2, 12))
def test_aliases_count_as_what_they_stand_for(items, depth, times):
    """The limit holds the size that a naive walk over the built structure finds."""
    text = f"a0: &a0 [{', '.join(['x'] * items)}]\n"
    for i in range(1, depth):
        text += f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * times)}]\n"
    size = expanded(yaml.safe_load(text))
    if size > MOST_NODES:
        with pytest.raises(UserError, match="stands for more"):
            check_yaml(text, "here")
    else:
        check_yaml(text, "here")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@\n ,?<1~\t\\", max_size=60))
def test_noise_is_yaml_or_a_sentence(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "noise.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        load_yaml(path)
    except UserError as error:
        if str(path) not in str(error) or "\n" in str(error):
            raise


def test_a_sentence_is_one_line_whatever_it_names(capsys):
    print_error(UserError("a\nb \x1b[2J \udcff " + "x" * 9000))
    err = capsys.readouterr().err
    assert err.startswith(r"oaa: error: a\nb \x1b[2J \udcff x")
    assert err.count("\n") == 1
    assert len(err) < 1600


@pytest.mark.slow
def test_a_bomb_in_the_whole_command(tmp_path):
    """Exit code 2, one line, and no more memory than `oaa --help` with its imports takes."""
    (tmp_path / "bomb.yaml").write_text(layers("x", 30))

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
        resource.setrlimit(resource.RLIMIT_DATA, (2 * 2**30, 2 * 2**30))

    command = [
        sys.executable,
        "-m",
        "dist_oaa",
        "classify",
        "--config",
        str(tmp_path / "bomb.yaml"),
    ]
    done = subprocess.run(
        command, preexec_fn=bounded, capture_output=True, text=True, timeout=90, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert f"stands for more than {MOST_NODES:,} values" in done.stderr
