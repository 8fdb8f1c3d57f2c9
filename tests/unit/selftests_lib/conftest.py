"""The selftests' library is no installed package: it is imported from the checkout, as pytest does in a guest."""

from __future__ import annotations

import sys

from harness.paths import project_root

sys.path.insert(0, str(project_root()))
