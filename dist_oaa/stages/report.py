"""`oaa report FOLDER`: a run, or a whole pipeline, as one page that needs no other file."""

from importlib import resources
from pathlib import Path

from dist_oaa.config.errors import UserError
from dist_oaa.config.extras import need
from dist_oaa.config.load import run_function
from dist_oaa.runtime.files import write_atomic
from dist_oaa.stages.page.contents import gather

PAGE = "report.html"


def main(prog: str, argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    run_function(report, prog, argv)
    return 0


def report(folder: Path) -> None:
    """Write report.html into the folder of a pipeline or of a single run.

    Args:
        folder: run directory of a stage, or the folder of `oaa pipeline`.
    """
    print(f"report: {write_report(folder)}")


def write_report(folder: Path) -> Path:
    """Writes the page; returns where it lies.

    Raises:
        UserError: when the folder is no run, cannot be written, or a package is missing.
    """
    jinja2 = need("jinja2", "the report page")
    need("matplotlib", "the report page")
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder, expected a run directory or that of a pipeline")
    template = resources.files("dist_oaa.stages.page").joinpath("template.html").read_text("utf-8")
    # Class names and file names come from the user's data: everything is escaped.
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    text = environment.from_string(template).render(page=gather(folder))
    try:
        write_atomic(folder / PAGE, text.encode())
    except OSError as error:
        raise UserError(f"{folder / PAGE} cannot be written: {error.strerror or error}") from error
    return folder / PAGE
