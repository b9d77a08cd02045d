"""`oaa store ...`: look at stores, mend, convert, assemble or compare them."""

import importlib
import sys

from dist_oaa.config.errors import UserError
from dist_oaa.config.load import choose_command, run_function

USAGE = """usage: oaa store COMMAND ...   (oaa store COMMAND --help lists its settings)

  info STORE          what a store holds and how far it has come
  verify STORE        read every map and hold it against its checksum
  repair STORE        restore damaged shards as far as that can be done
  rewind RUN          go back to the checkpoint before the one that is damaged
  export STORE OUT    write every map as a PNG or npy file, or as IRN and PSA do
  import FOLDER OUT   make a store from such a folder, or OAA's, IRN's or PSA's
  gather NODE... OUT  one store out of folders in which nodes kept its shards
  diff A B            compare two stores; exit code 0 identical, 1 different

STORE is the folder of a store, or a run directory that holds one."""

GATHER = """usage: oaa store gather NODE... OUT

Assemble the shards that several nodes have kept on their own disks into one store.

  NODE  a node's run directory, or the store in it; at least one has manifest.json
  OUT   the new store, a folder that does not exist; it appears whole or not at all"""

# command -> (module, function), imported when called.
COMMANDS = {
    "info": ("dist_oaa.store.inspect", "info"),
    "verify": ("dist_oaa.store.inspect", "verify"),
    "repair": ("dist_oaa.store.repair", "repair"),
    "rewind": ("dist_oaa.store.rewind", "rewind"),
    "export": ("dist_oaa.stages.exchanging.maps", "export_maps"),
    "import": ("dist_oaa.store.importer", "import_folder"),
    "gather": ("dist_oaa.store.gather", "gather"),
    "diff": ("dist_oaa.store.compare", "diff"),
}


def main(prog: str, argv: list[str]) -> int:
    """Runs one of the commands; returns the exit code."""
    command = choose_command(prog, argv, COMMANDS, USAGE)
    if command is None:
        return 0
    module, function = COMMANDS[command]
    function = getattr(importlib.import_module(module), function)
    if command == "gather":
        return function(*folders_of(f"{prog} gather", argv[1:]))
    return run_function(function, f"{prog} {command}", argv[1:])


def folders_of(prog: str, argv: list[str]) -> tuple[list[str], str]:
    """The folders to gather, any number of them, and the new store.

    Raises:
        UserError: when there are too few.
        SystemExit: after --help.
    """
    if {"-h", "--help"} & set(argv):
        print(GATHER)
        sys.exit(0)
    options = [text for text in argv if text.startswith("-")]
    if options or len(argv) < 2:
        wrong = f"has no option {options[0]}" if options else f"was given {len(argv)} folders"
        raise UserError(f"{prog} {wrong}, expected NODE... OUT: folders to gather, then a new one")
    return argv[:-1], argv[-1]
