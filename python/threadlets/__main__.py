"""``python -m threadlets``: a prompt, as ``python -m asyncio``; with arguments, the ``threadlets`` command."""

import sys

if __name__ == "__main__":
    if len(sys.argv) == 1:
        # Needs none of the packages that the command needs.
        from threadlets.cli._repl import main as prompt

        prompt()
    else:
        from threadlets.cli import main

        main()
