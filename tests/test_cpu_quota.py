"""Quotas of control groups, read from trees of files that are laid out as Linux lays them out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from async_dni.foundation.cores import available_cores, usable_cores
from async_dni.foundation.cpu_quota import cpu_quota

V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw"
V1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct"
OTHERS = [
    "22 27 0:21 / /proc rw,relatime - proc proc rw",
    "34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset",
]
TWO = "sys/fs/cgroup"  # where version 2 is mounted
ONE = "sys/fs/cgroup/cpu,cpuacct"

Lay = Callable[..., Path]


@pytest.fixture
def lay(tmp_path: Path) -> Lay:
    """Lay out /proc/self/cgroup, /proc/self/mountinfo and other files below a root."""

    def make(groups: str, mounts: list[str], files: dict[str, str]) -> Path:
        content = {"proc/self/cgroup": groups, "proc/self/mountinfo": "\n".join([*OTHERS, *mounts]) + "\n", **files}
        for name, text in content.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return make


def v1(folder: str, quota: str, period: str = "100000\n") -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": period}


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/\n", {f"{TWO}/cpu.max": "150000 100000\n"}, 1.5),  # a container sees its own group as the root
        ("0::/\n", {f"{TWO}/cpu.max": "50000 200000\n"}, 0.25),
        ("0::/\n", {f"{TWO}/cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),  # the root of a machine has no such file
        ("0::/a/b\n", {f"{TWO}/a/b/cpu.max": "400000 100000\n"}, 4.0),
        ("0::/a/b\n", {f"{TWO}/a/b/cpu.max": "max 100000\n", f"{TWO}/a/cpu.max": "300000 100000\n"}, 3.0),
        ("0::/a/b\n", {f"{TWO}/a/b/cpu.max": "400000 100000\n", f"{TWO}/a/cpu.max": "300000 100000\n"}, 3.0),
        ("0::/a/b\n", {f"{TWO}/a/b/cpu.max": "200000 100000\n", f"{TWO}/a/cpu.max": "300000 100000\n"}, 2.0),
        ("0::/a/b\n", {f"{TWO}/c/cpu.max": "100000 100000\n"}, None),  # another's
        ("0::/../outside\n", {f"{TWO}/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/a b\n", {f"{TWO}/a b/cpu.max": "200000 100000\n"}, 2.0),
    ],
)
def test_version_2(groups: str, files: dict[str, str], quota: float | None, lay: Lay) -> None:
    assert cpu_quota(lay(groups, [V2], files)) == quota


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("3:cpu,cpuacct:/\n", v1(ONE, "250000\n"), 2.5),
        ("3:cpu,cpuacct:/\n", v1(ONE, "-1\n"), None),
        ("3:cpu,cpuacct:/a/b\n", {**v1(f"{ONE}/a/b", "-1\n"), **v1(f"{ONE}/a", "200000\n")}, 2.0),
        ("3:cpu,cpuacct:/a/b\n", {**v1(f"{ONE}/a/b", "100000\n"), **v1(f"{ONE}/a", "200000\n")}, 1.0),
        ("4:cpuset:/a\n3:cpu,cpuacct:/b\n", {**v1(f"{ONE}/a", "100000\n"), **v1(f"{ONE}/b", "200000\n")}, 2.0),
        ("4:cpuset:/\n", v1(ONE, "200000\n"), None),
        ("3:cpu,cpuacct:/\n", {f"{ONE}/cpu.cfs_quota_us": "200000\n"}, None),
    ],
)
def test_version_1(groups: str, files: dict[str, str], quota: float | None, lay: Lay) -> None:
    assert cpu_quota(lay(groups, [V1], files)) == quota


def test_both_versions_on_one_machine(lay: Lay) -> None:
    unified = V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified ")
    files = {**v1(f"{ONE}/a", "200000\n"), "sys/fs/cgroup/unified/b/cpu.max": "300000 100000\n"}
    assert cpu_quota(lay("3:cpu,cpuacct:/a\n0::/b\n", [V1, unified], files)) == 2.0


def test_a_container_that_sees_the_hosts_paths(lay: Lay) -> None:
    """Docker with version 1, without a namespace: the group's path is the host's, the mount begins with that group."""
    mount = V1.replace(" / /sys", " /docker/1f /sys")
    files = {**v1(ONE, "300000\n"), **v1(f"{ONE}/inner", "200000\n")}
    assert cpu_quota(lay("3:cpu,cpuacct:/docker/1f\n", [mount], files)) == 3.0
    assert cpu_quota(lay("3:cpu,cpuacct:/docker/1f/inner\n", [mount], files)) == 2.0
    assert cpu_quota(lay("3:cpu,cpuacct:/docker/2\n", [mount], files)) == 3.0, "what is seen is the mount"


def test_a_mount_with_a_space_in_its_path(lay: Lay) -> None:
    mount = V2.replace("/sys/fs/cgroup", r"/the\040groups")
    assert cpu_quota(lay("0::/a\n", [mount], {"the groups/a/cpu.max": "200000 100000\n"})) == 2.0


@pytest.mark.parametrize(
    "text", ["", "\n", "100000", "many 100000", "100000 none", "100000 0", "0 100000", "-5 100000", "1 2 3", "1.5 1"]
)
def test_what_is_not_understood_is_no_quota(text: str, lay: Lay) -> None:
    assert cpu_quota(lay("0::/\n", [V2], {f"{TWO}/cpu.max": text})) is None
    assert cpu_quota(lay("3:cpu,cpuacct:/\n", [V1], v1(ONE, text, "100000\n"))) == (1.0 if text == "100000" else None)


@pytest.mark.parametrize("groups", ["", "0", "::\n", "x:y\n", "\n\n", "0::/\n"])
@pytest.mark.parametrize("mounts", [[], ["a line of another form - cgroup2"], ["1 2 3 / - cgroup2 cgroup2 rw"]])
def test_groups_and_mounts_of_no_known_form(groups: str, mounts: list[str], lay: Lay) -> None:
    assert cpu_quota(lay(groups, mounts, {f"{TWO}/cpu.max": "100000 100000\n"})) is None


def test_no_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert usable_cores(tmp_path) == len(available_cores())


def test_of_this_machine() -> None:
    quota = cpu_quota()
    assert quota is None or quota > 0
    assert 1 <= usable_cores() <= len(available_cores())


@pytest.mark.parametrize(("quota", "cores"), [(0.2, 1), (1.0, 1), (1.9, 1), (2.0, 2), (2.5, 2), (3.99, 3), (100.0, 4)])
def test_whole_cores_of_the_quota_can_be_used(
    quota: float, cores: int, lay: Lay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("async_dni.foundation.cores.available_cores", lambda: [0, 1, 4, 5])
    root = lay("0::/\n", [V2], {f"{TWO}/cpu.max": f"{int(quota * 100_000)} 100000\n"})
    assert usable_cores(root) == cores
