"""How much of the processor a container may use: the quota that Linux's control groups set, of version 1 and 2.

A quota is time on the processor, in cores: 1.5 is three halves of a second in each second, on whatever cores. The kernel
holds a process to those of its own group and of all groups around it, so the least of them counts. Where they are:

    /proc/self/cgroup       the process's own group, in each hierarchy: `number:controllers:group`
    /proc/self/mountinfo    where hierarchies are mounted, and which group of the hierarchy each mount begins with
    version 2               cpu.max: `quota period`, or `max period`, in microseconds
    version 1               cpu.cfs_quota_us, negative for none, and cpu.cfs_period_us
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The cores' worth of time that this process may use; None: as much as there is. Files are looked for below `root`."""
    quotas = [quota for group in _groups(root) for quota in (_quota_v2(group), _quota_v1(group)) if quota is not None]
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the process's groups that may have a quota: its own, and those around it, in each hierarchy."""
    own = dict(_own_groups(root))
    for line in _text(root / "proc/self/mountinfo").splitlines():
        mount, _, filesystem = line.partition(" - ")
        if len(mount.split()) < 5 or len(filesystem.split()) < 3:
            continue
        first, where = (_unescaped(part) for part in mount.split()[3:5])
        kind, options = filesystem.split()[0], filesystem.split()[2].split(",")
        version = 2 if kind == "cgroup2" else 1 if kind == "cgroup" and "cpu" in options else None
        if version not in own:
            continue
        group = PurePosixPath(own[version])
        # a group that is not below the mount's first is told from outside a namespace; what is seen here is the mount
        below = group.relative_to(first) if group.is_relative_to(first) and ".." not in group.parts else PurePosixPath()
        folder = root / where.lstrip("/")
        yield from (folder / part for part in (below, *below.parents))


def _own_groups(root: Path) -> Iterator[tuple[int, str]]:
    """The process's group in the hierarchy of version 2, and in that of version 1 which has the processor's time."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, group
        elif "cpu" in controllers.split(","):
            yield 1, group


def _quota_v2(group: Path) -> float | None:
    words = _text(group / "cpu.max").split()
    return _ratio(*words) if len(words) == 2 else None


def _quota_v1(group: Path) -> float | None:
    return _ratio(_text(group / "cpu.cfs_quota_us").strip(), _text(group / "cpu.cfs_period_us").strip())


def _ratio(quota: str, period: str) -> float | None:
    """None where there is no quota, or none that can be understood."""
    if not (quota.isdecimal() and period.isdecimal()) or not int(quota) or not int(period):
        return None
    return int(quota) / int(period)


def _unescaped(text: str) -> str:
    """A path of mountinfo, where spaces are written `\\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):  # there is none, or no control groups at all
        return ""
