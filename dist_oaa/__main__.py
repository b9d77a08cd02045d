"""`python -m dist_oaa`: the form that torchrun starts."""

import os

from dist_oaa.runtime.signals import die_with_parent

if __name__ == "__main__":
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # Before anything else: importing torch takes seconds, in which torchrun may be killed.
        die_with_parent()

    from dist_oaa.cli import main

    main()
