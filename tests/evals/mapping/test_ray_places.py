"""Whether a cluster has room for the workers, without a cluster."""

import sys

import pytest

from decoding_evals.mapping.ray import RayData, _places


@pytest.mark.parametrize(
    ("resources", "workers", "want"),
    [
        ({"CPU": 3.0}, None, (2, False)),
        ({"CPU": 3.0}, 2, (2, False)),
        ({"CPU": 3.0, "GPU": 2.0}, None, (2, True)),
        ({"CPU": 1.0, "GPU": 8.0}, 3, (3, True)),
    ],
)
def test_a_cluster_has_a_worker_on_each_gpu_or_each_cpu_but_one(resources, workers, want):
    assert _places(resources, workers) == want


@pytest.mark.parametrize(
    ("resources", "workers", "says"),
    [
        ({"CPU": 2.0}, 2, "2 need 3 CPUs, one of which reads, and it has 2 CPUs"),
        ({"CPU": 1.0}, None, "1 need 2 CPUs, one of which reads, and it has 1 CPUs"),
        ({"CPU": 4.0, "GPU": 1.0}, 2, "2 need 2 GPUs and a CPU, one of which reads"),
    ],
)
def test_too_small_a_cluster_is_refused_before_it_hangs(resources, workers, says):
    with pytest.raises(ValueError, match="workers must fit the cluster") as error:
        _places(resources, workers)
    assert says in str(error.value)


def test_without_ray_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"needs Ray: pip install 'decoding-toolkit\[ray\]'"):
        RayData(lambda: None)


@pytest.mark.parametrize("command", ["score", "perplexity", "compare", "calibrate", "uncertainty"])
def test_options_of_a_cluster_need_one(run, command):
    for option in (["--workers", 2], ["--address", "auto"]):
        code, out, err = run(command, "a", *option)
        assert (code, out) == (2, "") and f"{option[0]} needs --engine ray" in err
