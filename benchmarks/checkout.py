"""Found first: the scripts are run from a checkout, and measure that checkout, whether or not the package is installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
