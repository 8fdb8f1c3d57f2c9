"""The folders under the cache root, each with one job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness import paths


@dataclass(frozen=True)
class Layout:
    root: Path

    @classmethod
    def default(cls) -> Layout:
        return cls(paths.cache_root())

    @property
    def downloads(self) -> Path:
        """Archives as they came, complete and checked; ``incoming-*`` are unfinished downloads."""
        return self.root / "downloads"

    @property
    def apt(self) -> Path:
        """Private apt states."""
        return self.root / "apt"

    @property
    def trees(self) -> Path:
        """Unpacked or mirrored kernel trees, patched in place."""
        return self.root / "trees"

    @property
    def kernels(self) -> Path:
        """The store: finished kernels by identity."""
        return self.root / "kernels"

    @property
    def failed(self) -> Path:
        """Log and manifest of the last failed build of each identity."""
        return self.root / "failed"

    @property
    def tools(self) -> Path:
        """Programs of ours for guests, built: NAME-IDENTITY/bin."""
        return self.root / "tools"

    @property
    def ccache(self) -> Path:
        return self.root / "ccache"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def memo(self) -> Path:
        """Answers kept between runs; may be deleted at any time."""
        return self.root / "memo"
