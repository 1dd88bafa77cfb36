"""How many threads an engine starts with."""

import pytest

from sparseact.utils import processors


@pytest.fixture
def group(tmp_path, monkeypatch):
    """Write files of control groups, and have the process be in /a/b."""

    def write(cgroup, files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        (tmp_path / "cgroup").write_text(cgroup)
        return processors._quotas(tmp_path, tmp_path / "cgroup")

    return write


def test_a_quota_of_the_group_or_of_one_above_it_counts(group):
    files = {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n", "cpu.max": "400000 100000\n"}
    assert group("0::/a/b\n", files) == [1.5, 4.0]


def test_the_older_kind_of_files(group):
    files = {"cpu,cpuacct/a/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"}
    assert group("4:memory:/a\n3:cpu,cpuacct:/a\n", files) == [0.5]
    files = {"cpu,cpuacct/a/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"}
    assert group("3:cpu,cpuacct:/a\n", files) == []


def test_no_groups_no_quota(group):
    assert group("0::/not/there\n", {}) == []
    assert group("", {"cpu.max": "garbage"}) == []


@pytest.mark.parametrize(("quotas", "expected"), [([], 8), ([0.5], 1), ([1.5], 2), ([2.0, 1.0], 1), ([64.0], 8)])
def test_threads_are_no_more_than_the_quota_pays_for(monkeypatch, quotas, expected):
    monkeypatch.setattr(processors, "_quotas", lambda root, own: quotas)
    monkeypatch.setattr(processors.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert processors.processors() == expected
