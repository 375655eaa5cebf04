"""`python -m deepssm` is the command `deepssm`."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
