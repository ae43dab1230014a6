"""Build, check and test what a release would publish: ``python wheels/release.py``.

It publishes nothing: at the end it prints the files with their hashes, and the command that uploads them. With ``--rehearse`` it
goes on where the checkout is not that of a release: changes that are not committed, no section of the version in the changelog.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tomllib

from build import output
from pythons import ROOT


def main() -> None:
    """Do all of it; the exit status is 1 if something is not as a release needs it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    if obstacles := _obstacles(version):
        print(f"threadlets {version} cannot be released:", *obstacles, sep="\n- ", flush=True)
        if not options.rehearse:
            raise SystemExit(1)
    for script, *arguments in (
        ["licences.py", "--check"],
        ["build.py"],
        ["smoke.py"],
        ["reproduce.py"],
    ):
        print(f"{script}:", flush=True)
        subprocess.run([sys.executable, ROOT / "wheels" / script, *arguments], check=True)
    files = sorted((ROOT / "dist").glob("threadlets-*"))
    for path in files:
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}")
    print(
        f"git tag v{version} && git push origin v{version} && twine upload dist/threadlets-{version}*"
    )


def _obstacles(version: str) -> list[str]:
    """Return what keeps this checkout from being released."""
    found = []
    if output("git", "-C", ROOT, "status", "--porcelain"):
        found.append("there are changes that are not committed")
    changelog = (ROOT / "CHANGELOG.md").read_text()
    if not re.search(
        rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE
    ):
        found.append(f'CHANGELOG.md has no section "## [{version}] - YYYY-MM-DD"')
    if output("git", "-C", ROOT, "tag", "--list", f"v{version}"):
        found.append(f"the tag v{version} exists already: raise the version in Cargo.toml")
    return found


if __name__ == "__main__":
    main()
