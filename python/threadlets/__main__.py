"""Make ``python -m threadlets`` the same program as the ``threadlets`` command."""

from threadlets.cli import main

if __name__ == "__main__":
    main()
