"""`oaa data check|demo|voc2012|export`: look at, generate, download or hand on a data set."""

from dist_oaa.config.data import DataConfig
from dist_oaa.config.load import choose_command, parse_config, run_function

USAGE = """usage: oaa data COMMAND ...   (oaa data COMMAND --help lists its settings)

  check ROOT     read every image and label and report what is wrong
  demo OUT       generate a small data set of drawn scenes, with masks
  voc2012 OUT    lay out PASCAL VOC 2012 and SBD, downloaded with --download
  export RUN OUT write a run's labels or maps as other programs expect them"""


def main(prog: str, argv: list[str]) -> int:
    """Runs one of the commands; returns the exit code."""
    command = choose_command(prog, argv, COMMANDS, USAGE)
    if command is None:
        return 0
    return COMMANDS[command](f"{prog} {command}", argv[1:])


def check(prog: str, argv: list[str]) -> int:
    """`oaa data check ROOT`: a root and the settings of `data`."""
    from dist_oaa.data.check import check_command

    if argv and not argv[0].startswith("-"):
        argv = ["--root", *argv]
    config = parse_config(DataConfig, f"{prog} ROOT", argv)
    return check_command(config)


def demo(prog: str, argv: list[str]) -> int:
    """`oaa data demo OUT`: generates the drawn scenes."""
    from dist_oaa.data.demo import generate

    summary = run_function(generate, prog, argv)
    print(
        f"{summary.images} scenes ({summary.train} train, {summary.val} val) of "
        f"{len(summary.images_per_class)} classes are in {summary.out}"
    )
    return 0


def voc2012(prog: str, argv: list[str]) -> int:
    """`oaa data voc2012 OUT --download`: the papers' data set."""
    from dist_oaa.data.download import voc2012 as lay_out

    run_function(lay_out, prog, argv)
    return 0


def export(prog: str, argv: list[str]) -> int:
    """`oaa data export RUN OUT`: a run's labels or maps in the layout of another program."""
    from dist_oaa.stages.exchanging.data import export_data

    return run_function(export_data, prog, argv)


COMMANDS = {"check": check, "demo": demo, "voc2012": voc2012, "export": export}
