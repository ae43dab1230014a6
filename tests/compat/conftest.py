"""Let the harness be imported as run.py imports it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
