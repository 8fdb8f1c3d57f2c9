"""ci/ makes the documents; it is a folder of the project, not of the installed package."""

from __future__ import annotations

import sys

from harness.paths import project_root

sys.path.insert(0, str(project_root()))
