"""A container's CPU limit: where it is found, and that a child starts no more threads than it is for."""

import os

import pytest

from transfer_learning import child, cpu_limit


@pytest.fixture
def machine(tmp_path):
    """Returns the limit that is found where a process's groups and some files of theirs are these."""

    def limit(groups, **files):
        (tmp_path / "cgroup").write_text("".join(f"{line}\n" for line in groups))
        for name, text in files.items():
            path = tmp_path / "mounted" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        return cpu_limit.cpu_limit(tmp_path / "cgroup", tmp_path / "mounted")

    return limit


V1 = ("4:memory:/", "3:cpu,cpuacct:/docker/0a1b", "2:cpuset:/", "0::/")


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        pytest.param(["0::/"], {"cpu.max": "200000 100000"}, 2, id="a container"),
        pytest.param(["0::/"], {"cpu.max": "150000 100000"}, 2, id="one and a half"),
        pytest.param(["0::/"], {"cpu.max": "10000 100000"}, 1, id="a tenth"),
        pytest.param(["0::/"], {"cpu.max": "max 100000"}, None, id="no limit"),
        pytest.param(["0::/"], {}, None, id="the whole machine"),
        pytest.param(
            ["0::/system.slice/worker.service"],
            {"system.slice/worker.service/cpu.max": "400000 100000", "system.slice/cpu.max": "max 100000"},
            4,
            id="a service",
        ),
        pytest.param(
            ["0::/kubepods/pod/container"],
            {"kubepods/pod/container/cpu.max": "max 100000", "kubepods/pod/cpu.max": "300000 100000"},
            3,
            id="a group around it",
        ),
        pytest.param(
            ["0::/pod/container"],
            {"pod/container/cpu.max": "800000 100000", "pod/cpu.max": "300000 100000"},
            3,
            id="the least of two",
        ),
        pytest.param(V1, {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2, id="version 1, a container"),
        pytest.param(
            V1,
            {"cpu/docker/0a1b/cpu.cfs_quota_us": "50000", "cpu/docker/0a1b/cpu.cfs_period_us": "10000"},
            5,
            id="version 1, seen from outside",
        ),
        pytest.param(V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, id="version 1, no limit"),
        pytest.param(["3:cpuset:/a"], {"cpu/a/cpu.cfs_quota_us": "1", "cpu/a/cpu.cfs_period_us": "1"}, None, id="not its own"),
        pytest.param(["0::/"], {"cpu.max": "what?"}, None, id="words of another kernel"),
        pytest.param(["0::/../../other"], {"cpu.max": "200000 100000"}, 2, id="a group outside of the container's"),
    ],
)
def test_the_limit_is_the_least_of_its_groups(machine, groups, files, limit):
    assert machine(groups, **files) == limit


def test_without_groups_there_is_no_limit(tmp_path):
    assert cpu_limit.cpu_limit(tmp_path / "cgroup", tmp_path) is None


@pytest.mark.parametrize(
    ("allowed", "parent", "threads", "found"),
    [
        pytest.param(1, {}, None, "1", id="limited"),
        pytest.param(1, {"OMP_NUM_THREADS": "3"}, None, "3", id="the worker's own setting"),
        pytest.param(1, {}, 2, "2", id="asked for"),
        pytest.param(2, {}, None, None, id="as many as there are"),
        pytest.param(None, {}, None, None, id="not limited"),
    ],
)
def test_a_child_starts_as_many_threads_as_it_may_use_processors(monkeypatch, allowed, parent, threads, found):
    monkeypatch.setattr(child, "cpu_limit", lambda: allowed)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})

    assert child.environment(parent, threads).get("OMP_NUM_THREADS") == found
