"""`python -m dist_oaa`: the form that torchrun starts."""

from dist_oaa.cli import main

if __name__ == "__main__":
    main()
