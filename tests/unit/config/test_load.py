"""Settings from files and the command line: what is read, and the sentence for every mistake."""

import ast
import dataclasses
import inspect
import textwrap
from pathlib import Path

import pytest
import yaml

from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.load import (
    complete_flags,
    dotted_keys,
    dump_config,
    nearest_key,
    parse_config,
    run_function,
)


def parse(*argv: str) -> ClassifyConfig:
    return parse_config(ClassifyConfig, "oaa classify", list(argv))


@pytest.fixture
def settings_file(tmp_path):
    """Writes a settings file and returns its path as an argument."""

    def write(text: str, name: str = "settings.yaml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def refusal(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(*argv)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def value_of(config: object, key: str) -> object:
    for name in key.split("."):
        config = getattr(config, name)
    return config


def test_without_arguments_the_defaults_hold():
    assert parse() == ClassifyConfig()


def test_file_and_command_line(settings_file):
    path = settings_file(
        """
        run_dir: here
        resume: true
        seed: 7
        data:
          classes: [cat, dog]
          augment: {scale: [0.5, 2], exclusive: true}
        optim: {lr: 1e-3, multipliers: [1, 2, 3, 4]}
        accumulate: {gate: topk}
        """
    )
    config = parse("--config", path)
    assert (config.run_dir, config.resume, config.seed) == ("here", True, 7)
    assert config.data.classes == ["cat", "dog"]
    assert config.data.augment.scale == [0.5, 2.0]
    assert config.data.augment.exclusive is True
    assert config.data.augment.flip == 0.5
    assert config.optim.lr == 0.001
    assert config.accumulate.gate == "topk"
    assert config.data.size == 224


def test_the_later_one_wins(settings_file):
    first = settings_file("seed: 1\noptim: {lr: 0.5, epochs: 3}\n", "first.yaml")
    second = settings_file("optim: {lr: 0.25}\n", "second.yaml")
    config = parse("--config", first, "--config", second, "--optim.epochs", "9")
    assert (config.seed, config.optim.lr, config.optim.epochs) == (1, 0.25, 9)
    assert parse("--seed", "5", "--config", first).seed == 1
    assert parse("--config", first, "--seed=5").seed == 5


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--resume"], (True, 0)),
        (["--resume", "--seed", "4"], (True, 4)),
        (["--seed", "4", "--resume"], (True, 4)),
        (["--resume", "true"], (True, 0)),
        (["--resume", "false"], (False, 0)),
        (["--resume=true"], (True, 0)),
    ],
)
def test_a_flag_may_stand_alone(argv, expected):
    config = parse(*argv)
    assert (config.resume, config.seed) == expected


def test_one_reading_leaves_nothing_for_the_next(settings_file):
    path = settings_file("optim: {lr: 0.5, multipliers: [9, 9, 9, 9]}\nresume: true\n")
    first, second = parse("--config", path), parse("--config", path)
    assert first == second != ClassifyConfig()
    assert first.optim is not second.optim
    assert refusal("--optim.lr", "fast")
    assert parse() == ClassifyConfig()


def test_complete_flags_touches_flags_only():
    argv = ["--resume", "--root", "--x", "a", "--y.resume", "no", "--y.resume"]
    expected = ["--resume", "true", "--root", "--x", "a", "--y.resume", "no", "--y.resume", "true"]
    assert complete_flags(argv, ["resume", "y.resume"]) == expected
    assert complete_flags([], ["resume"]) == []


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("optim.lrr", "optim.lr"),
        ("data.augment.flipp", "data.augment.flip"),
        ("sead", "seed"),
        ("accumulate.mapsize", "accumulate.map_size"),
        ("optim.l", "optim.lr"),  # no guess at a key that begins so
        ("map_size", "accumulate.map_size"),
    ],
)
def test_an_unknown_key_on_the_command_line(key, nearest):
    expected = f"unknown key {key} in the command line; the nearest valid key is {nearest}"
    assert refusal(f"--{key}", "3") == expected
    assert refusal(f"--{key}=3") == expected


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("optim:\n  lrr: 3\n", "optim.lrr", "optim.lr"),
        ("data: {augment: {crops: 3}}\n", "data.augment.crops", "data.augment.crop"),
        ("sead: 3\n", "sead", "seed"),
    ],
)
def test_an_unknown_key_in_a_file(settings_file, text, key, nearest):
    path = settings_file(text)
    expected = f"unknown key {key} in {path}; the nearest valid key is {nearest}"
    assert refusal("--config", path) == expected


def test_a_key_like_no_other():
    assert refusal("--zzqqy", "1") == "unknown key zzqqy in the command line; see --help"
    assert nearest_key("zzqqy", dotted_keys(ClassifyConfig)) is None


@pytest.mark.parametrize(
    ("key", "value", "shown", "expected"),
    [
        ("optim.lr", "fast", "'fast'", "a value of type float"),
        ("seed", "1.5", "'1.5'", "a value of type int"),
        ("resume", "maybe", "'maybe'", "a value of type bool"),
        (
            "accumulate.gate",
            "loose",
            "'loose'",
            "one of 'strict', 'topk', 'prob', 'none', 'contest'",
        ),
    ],
)
def test_a_value_of_the_wrong_type(settings_file, key, value, shown, expected):
    sentence = f"{key} is {shown} in {{}}, expected {expected}"
    assert refusal(f"--{key}", value) == sentence.format("the command line")
    outer, _, inner = key.rpartition(".")
    path = settings_file(f"{outer}: {{{inner}: {value}}}\n" if outer else f"{inner}: {value}\n")
    assert refusal("--config", path) == sentence.format(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optim.lr", -1),
        ("optim.batch_size", 0),
        ("optim.multipliers", [1, 2]),
        ("optim.milestones", [0.5, 1.5]),
        ("data.size", 3),
        ("data.max_aspect", 0.5),
        ("data.pixel_limit", 0),
        ("data.workers", -1),
        ("data.augment.flip", 1.5),
        ("data.augment.jitter", [0.1, 0.1]),
        ("data.augment.scale", [2, 1]),
        ("data.augment.crop", -1),
        ("accumulate.tau", 2),
        ("accumulate.map_size", 0),
        ("accumulate.start_epoch", -1),
        ("store.shards", 0),
        ("model.output_stride", 7),
        ("checkpoint.keep", 0),
        ("checkpoint.every_steps", -1),
        ("evaluate.thresholds", 1),
        ("runtime.device", "tpu"),
        ("runtime.timeout_s", 0),
    ],
)
def test_a_value_out_of_range(settings_file, key, value):
    from_argv = refusal(f"--{key}", str(value))
    assert key in from_argv
    assert "expected" in from_argv
    assert "the command line" in from_argv
    tree: object = value
    for name in reversed(key.split(".")):
        tree = {name: tree}
    path = settings_file(yaml.safe_dump(tree))
    from_file = refusal("--config", path)
    assert key in from_file
    assert path in from_file


def test_rules_to_compare_are_named():
    config = parse("--accumulate.compare", "[average, topk+max, my.module:FUSION]")
    assert config.accumulate.compared == [
        ("average", "strict", "average"),
        ("topk_max", "topk", "max"),
        ("my_module_FUSION", "strict", "my.module:FUSION"),
    ]
    sentence = refusal("--accumulate.compare", "[lenient+max]")
    assert "names the gate 'lenient', expected one of strict, topk" in sentence
    assert "expected each rule once" in refusal("--accumulate.compare", "[max, max]")


def test_files_that_are_no_settings(settings_file, tmp_path):
    missing = str(tmp_path / "nowhere.yaml")
    assert missing in refusal("--config", missing)
    assert str(tmp_path) in refusal("--config", str(tmp_path))
    broken = settings_file("optim: [1\nb: {\n")
    sentence = refusal("--config", broken)
    assert sentence.startswith(f"{broken} is no valid YAML: ")
    assert "line 2" in sentence
    for text in ("", "- 1\n- 2\n", "just words\n", "optim: 5\n", "optim:\n"):
        path = settings_file(text)
        expected = f"{path} holds no settings, expected lines of `key: value`"
        assert refusal("--config", path) == expected, text


def test_a_key_without_a_value(settings_file):
    path = settings_file("data:\n  root:\n")
    assert refusal("--config", path) == f"data.root in {path} has no value"
    assert "--seed" in refusal("--seed")


def test_an_argument_that_belongs_nowhere():
    assert "stray" in refusal("stray")


def test_python_in_a_file_is_not_run(settings_file, tmp_path):
    target = tmp_path / "touched"
    path = settings_file(f"run_dir: !!python/object/apply:pathlib.Path.touch [{target}]\n")
    refusal("--config", path)
    assert not target.exists()


def test_dumped_settings_come_back(settings_file):
    config = parse(
        "--run_dir=null and void: #5", "--resume", "--optim.lr=1e-7", "--data.classes=['yes', '1']",
        "--data.augment.scale=[0.3333333333333333, 2]", "--data.split=2012", "--model.out_index=-2",
    )  # fmt: skip
    assert config.data.split == "2012"
    text = dump_config(config)
    assert parse("--config", settings_file(text)) == config
    assert yaml.safe_load(text) == dataclasses.asdict(config)
    assert dump_config(parse("--config", settings_file(text))) == text


def shown_by(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        parse(*argv)
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_print_config_is_a_settings_file(capsys, settings_file):
    printed = shown_by(capsys, "--optim.lr", "0.125", "--print_config")
    assert yaml.safe_load(printed)["optim"]["lr"] == 0.125
    assert parse("--config", settings_file(printed)) == parse("--optim.lr", "0.125")


def field_sentences(config_class: type) -> dict[str, str]:
    """The string below each field, read from the source by its syntax tree."""
    body = ast.parse(textwrap.dedent(inspect.getsource(config_class))).body[0].body
    sentences = {}
    for field, below in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(field, ast.AnnAssign):
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            sentences[field.target.id] = str(below.value.value) if is_text else ""
    return sentences


def test_every_key_has_a_sentence_and_help_shows_it(capsys):
    shown = " ".join(shown_by(capsys, "--help").split())
    pending, count = [("", ClassifyConfig)], 0
    while pending:
        prefix, config_class = pending.pop()
        sentences = field_sentences(config_class)
        for field in dataclasses.fields(config_class):
            key, sentence = prefix + field.name, " ".join(sentences[field.name].split())
            if dataclasses.is_dataclass(field.type):
                pending.append((key + ".", field.type))
                continue
            assert f"--{key} " in shown, key
            assert len(sentence) > 15, key
            assert sentence.endswith("."), key
            assert sentence.rstrip(".") in shown, key
            count += 1
    assert count == len(dotted_keys(ClassifyConfig)) > 50


def test_every_default_passes_its_own_check():
    for key in dotted_keys(ClassifyConfig):
        assert value_of(ClassifyConfig(), key) is not None


def greet(name: str, times: int = 1) -> str:
    """Greets.

    Args:
        name: whom to greet.
        times: how often, a count.
    """
    return " ".join(["hello", name] * times)


def test_run_function_takes_required_arguments_by_position(capsys):
    assert run_function(greet, "oaa greet", ["ann"]) == "hello ann"
    assert run_function(greet, "oaa greet", ["ann", "--times", "2"]) == "hello ann hello ann"
    with pytest.raises(UserError, match=r"times.*int"):
        run_function(greet, "oaa greet", ["ann", "--times", "x"])
    with pytest.raises(UserError, match="nearest valid key is times"):
        run_function(greet, "oaa greet", ["ann", "--tims", "2"])
    with pytest.raises(UserError, match="name"):
        run_function(greet, "oaa greet", [])
    with pytest.raises(SystemExit):
        run_function(greet, "oaa greet", ["--help"])
    assert "how often, a count" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[3].glob("configs/**/*.yaml")))
def test_shipped_settings_have_a_header(path):
    assert path.read_text().startswith("#"), "says what it is for and how it is run"


@pytest.mark.parametrize(
    ("argv", "download"),
    [([], False), (["--download"], True), (["--download", "false"], False)],
)
def test_a_flag_of_a_function_stands_alone(argv, download):
    def lay_out(out: str, download: bool = False) -> tuple[str, bool]:
        return out, download

    assert run_function(lay_out, "oaa data voc2012", ["OUT", *argv]) == ("OUT", download)
