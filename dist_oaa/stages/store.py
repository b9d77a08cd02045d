"""`oaa store info|verify|export|import|diff`: look at, check, convert or compare stores."""

import importlib

from dist_oaa.config.load import choose_command, run_function

USAGE = """usage: oaa store COMMAND ...   (oaa store COMMAND --help lists its settings)

  info STORE          what a store holds and how far it has come
  verify STORE        read every map and hold it against its checksum
  export STORE OUT    write every map as a PNG or npy file
  import FOLDER OUT   make a store from such a folder, or the public OAA code's
  diff A B            compare two stores; exit code 0 identical, 1 different

STORE is the folder of a store, or a run directory that holds one."""

# command -> (module, function), imported when called.
COMMANDS = {
    "info": ("dist_oaa.store.inspect", "info"),
    "verify": ("dist_oaa.store.inspect", "verify"),
    "export": ("dist_oaa.store.interchange", "export_store"),
    "import": ("dist_oaa.store.importer", "import_folder"),
    "diff": ("dist_oaa.store.compare", "diff"),
}


def main(prog: str, argv: list[str]) -> int:
    """Runs one of the commands; returns the exit code."""
    command = choose_command(prog, argv, COMMANDS, USAGE)
    if command is None:
        return 0
    module, function = COMMANDS[command]
    function = getattr(importlib.import_module(module), function)
    return run_function(function, f"{prog} {command}", argv[1:])
