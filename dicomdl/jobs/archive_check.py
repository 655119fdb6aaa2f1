"""The check of archives: every member that an index reads, against the checksum of its archive.

Training reads parts of stored members, whose checksum is that of the whole. A bit that flipped on
the disk is found by this check alone.
"""

from dataclasses import dataclass
from typing import Any

from dicomdl.errors import PixelError
from dicomdl.index.files import file_sources
from dicomdl.index.index import Index
from dicomdl.index.text import counted
from dicomdl.jobs._damage import damage_lines
from dicomdl.jobs._progress import progress_bar
from dicomdl.storage.archives import verify_member
from dicomdl.storage.locations import split


@dataclass(frozen=True)
class ArchiveCheck:
    """Members of archives that are not as their archives state.

    Attributes
    ----------
    members
        The number of members that were read.
    unstated
        The number of those whose archive states no checksum, as a tar does.
    damaged
        The location of each damaged member, and what is wrong with it.
    """

    members: int
    unstated: int
    damaged: tuple[tuple[str, str], ...]

    @property
    def ok(self) -> bool:
        """Whether all members are as their archives state."""
        return not self.damaged

    def to_dict(self) -> dict[str, Any]:
        """Return the counts and the damaged members for JSON."""
        return {
            "members": self.members,
            "without_checksum": self.unstated,
            "damaged": [{"path": path, "detail": detail} for path, detail in self.damaged],
        }

    def text(self, everything: bool = False) -> str:
        """Return the lines for people: the first damaged members, or all."""
        lines = [
            f"{counted(self.members, 'members')} of archives were read: "
            f"{len(self.damaged):,} damaged"
        ]
        if self.unstated:
            lines.append(
                f"  {self.unstated:,} of them in tar archives, which state no checksum of contents"
            )
        return "\n".join([*lines, *damage_lines(self.damaged, everything)])


def check_archives(index: Index, *, progress: bool = True) -> ArchiveCheck:
    """Read every member of archives in an index, and compare the checksums of the archives.

    Parameters
    ----------
    index
        The index.
    progress
        Show a progress bar on a terminal.

    Returns
    -------
    ArchiveCheck
        The counts, and the damaged members. A member that is gone or changed is one of them.
    """
    sources = [source for source in file_sources(index) if split(source.path).members]
    unstated, damaged = 0, []
    for source in progress_bar(sources, unit="member", desc="reading archives", shown=progress):
        try:
            unstated += not verify_member(source)
        except PixelError as error:
            damaged.append((source.path, str(error)))
        except OSError as error:
            damaged.append((source.path, f"it cannot be read: {error.strerror}"))
    return ArchiveCheck(len(sources), unstated, tuple(damaged))
