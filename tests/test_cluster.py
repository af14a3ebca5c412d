"""Processes that train together: how they start, agree and stop; the numbers stay the same."""

import argparse
import contextlib
import http.server
import json
import socket
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from automix_jax import recipes
from automix_jax.data.bad_records import BadRecords
from automix_jax.data.pipeline import Shard
from automix_jax.errors import ConfigError, DataError
from automix_jax.evaluate.accuracy import make_evaluate
from automix_jax.train import cluster
from automix_jax.train.build import build, make_mesh, named_key
from automix_jax.train.feed import open_feed
from automix_jax.train.sharding import gathered
from automix_jax.train.teacher import make_teacher_stats
from tests import processes, runs

PROGRAM = ("-c", "from tests import test_cluster; test_cluster.main()")
TINY = (
    "--config.model.name=resnet8",
    "--config.model.layer=stage2",
    "--config.num_groups=4",
    "--config.run.workers=0",
)
STREAM = (
    "--config.method.name=mixup",
    "--config.teacher.enabled=False",
    "--config.data.name=folder",
    "--config.data.loading=stream",
    "--config.data.image_size=8",
    "--config.data.crop=random_resized",
    "--config.data.mean=(0.5,0.5,0.5)",
    "--config.data.std=(0.25,0.25,0.25)",
)
BAD = ("train/a/0.png", "train/b/3.png", "train/c/5.png", "train/d/7.png", "test/d/4.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny npz data set, and a folder of 48 + 20 images, some of which are none."""
    folder = tmp_path_factory.mktemp("cluster")
    runs.write_npz(folder / "data.npz")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 5)):
        for label, name in enumerate("abcd"):
            (folder / "photos" / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 60, (10 + i, 9, 3)) + 45 * label
                path = folder / "photos" / split / name / f"{i}.png"
                Image.fromarray(image.astype(np.uint8)).save(path)
    for name in BAD:
        (folder / "photos" / name).write_text("not an image")
    return folder


# -- how they start --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, 2, 0), "without the --coordinator"),
        ((None, None, 0), "without the --coordinator"),
        (("127.0.0.1:1", None, 0), "needs --num-processes and --process-id"),
        (("127.0.0.1:1", 2, None), "needs --num-processes and --process-id"),
        (("127.0.0.1:1", 2, 2), "--process-id is 2 of --num-processes 2"),
        (("127.0.0.1:1", 0, 0), "--process-id is 0 of --num-processes 0"),
        (("127.0.0.1", 2, 1), "--coordinator is '127.0.0.1': give HOST:PORT"),
        (("127.0.0.1:http", 2, 1), "give HOST:PORT"),
        (("127.0.0.1:70000", 2, 1), "give HOST:PORT"),
        ((":1234", 2, 1), "give HOST:PORT"),
    ],
)
def test_flags_that_do_not_fit_together(arguments, message):
    with pytest.raises(ConfigError, match=message):
        cluster.start(*arguments)


def test_a_coordinator_that_is_not_there():
    port = processes.free_port()
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} cannot be reached within 1 s"):
        cluster.start(f"127.0.0.1:{port}", 2, 1, patience=1)


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen at port {port}"):
            cluster.start(f"127.0.0.1:{port}", 2, 0)


NO_TPU = {"TPU_SKIP_MDS_QUERY": "1"}  # as JAX sets it
SALLOC = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        (SALLOC, False),  # a batch script
        (SALLOC | {"SLURM_STEP_NUM_TASKS": "1"}, False),  # an interactive shell
        (SALLOC | {"SLURM_STEP_NUM_TASKS": "8"}, True),  # srun
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t-0,t-1,t-2,t-3"}, True),
        ({"TPU_WORKER_HOSTNAMES": "t-0", "MEGASCALE_NUM_SLICES": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "t-0", "TPU_PROCESS_ADDRESSES": "t-0:1,t-0:2"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}, False),
    ],
)
def test_what_the_environment_says(environment, several):
    assert cluster.one_of_several(NO_TPU | environment) == several


METADATA = "/computeMetadata/v1/instance/attributes/"


@pytest.mark.parametrize(
    ("environment", "gpus"),
    [
        ({}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_GPUS_ON_NODE": "8"}, list(range(8))),
        ({"SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "2"}, [0, 1]),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x4)", "SLURM_GPUS_ON_NODE": "8"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2),2", "SLURM_GPUS_ON_NODE": "8"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, None),
        (
            {
                "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
                "SLURM_GPUS_ON_NODE": "8",
                "JAX_LOCAL_DEVICE_IDS": "0,1",
            },
            None,
        ),
    ],
)
def test_a_task_that_has_a_host_to_itself_takes_all_its_gpus(environment, gpus):
    assert cluster.local_gpus(environment) == gpus


@contextlib.contextmanager
def metadata_server(attributes):
    """What answers on a virtual machine of Google's."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            value = attributes.get(self.path.removeprefix(METADATA))
            self.send_response(404 if value is None else 200)
            self.end_headers()
            self.wfile.write((value or "").encode())

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("attributes", "several"),
    [
        ({}, False),
        ({"worker-network-endpoints": "a:0:10.0.0.1"}, False),
        ({"worker-network-endpoints": "a:0:10.0.0.1,b:1:10.0.0.2"}, True),
        ({"worker-network-endpoints": "t-0", "tpu-env": "MEGASCALE_NUM_SLICES: '2'\n"}, True),
    ],
)
def test_what_a_tpu_host_is_told(attributes, several):
    with metadata_server(attributes) as address:
        assert cluster.one_of_several({"GCE_METADATA_IP": address}) == several


def test_a_tpu_without_such_a_server():
    nobody = f"127.0.0.1:{processes.free_port()}"
    assert not cluster.one_of_several({"GCE_METADATA_IP": nobody})


def test_a_launcher_that_does_not_say_where(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    uri = "OMPI_MCA_orte_hnp_uri"
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: {}[uri])
    with pytest.raises(ConfigError, match=r"\('OMPI_MCA_orte_hnp_uri'\): give --coordinator"):
        cluster.start(None, None, None)


def test_a_process_on_its_own():
    cluster.start(None, None, None)
    assert cluster.is_main() and cluster.gather({"a": (1,)}) == [{"a": (1,)}]
    assert cluster.together(lambda: 3) == 3
    assert not cluster.reached_preemption(0)

    def fail():
        raise DataError("no data")

    with pytest.raises(DataError, match=r"^no data$"):
        cluster.together(fail)


# -- what they do, in processes of their own -------------------------------------------------------


def main():
    """One of several processes: does what the command line says, and writes what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=("train", "stop"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--coordinator")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    known, overrides = parser.parse_known_args()
    cluster.start(known.coordinator, known.num_processes, known.process_id)
    if known.task == "train":
        train(known.folder, overrides, make_mesh())
    else:
        agree_and_stop(known.folder)


def train(folder, overrides, mesh):
    """Takes three steps and evaluates; the first process writes numbers and parameters."""
    config = recipes.override(recipes.load_config(str(runs.RECIPE)), overrides)
    folder.mkdir(exist_ok=True)
    with contextlib.closing(open_feed(config, mesh, folder)) as feed:
        experiment = build(config, feed.facts, mesh)
        state, metrics = experiment.create(named_key(0, "state")), experiment.create_metrics()
        for step in range(3):
            state, metrics = experiment.run_steps(state, metrics, *feed.dispatch(step, 1), None)
        state = gathered(state, mesh)
        networks = {"student": (state.params["student"], state.student_stats)}
        if state.teacher:
            stats = make_teacher_stats(config, experiment)(state, feed)
            networks["teacher"] = (state.teacher, stats)
        accuracy = make_evaluate(experiment.model, experiment.normalize)(
            networks, feed.test_batches()
        )
        feed.share_unreadable()
        unreadable = cluster.gather(feed.unreadable)
    assert all(counts == unreadable[0] for counts in unreadable)
    if cluster.is_main():
        arrays = jax.tree.leaves_with_path((networks, state.params))
        np.savez(folder / "arrays.npz", **{jax.tree_util.keystr(k): v for k, v in arrays})
        numbers = {k: float(v) for k, v in metrics.compute().items()} | accuracy
        (folder / "numbers.json").write_text(json.dumps([numbers, unreadable[0]]))


def agree_and_stop(folder):
    """What process 1 says reaches process 0, so does its failure, and its signal."""
    number, said = jax.process_index(), []
    said.append(cluster.gather({"number": number, "text": "x" * 5000 * number}))

    def fail():
        if number == 1:
            raise DataError("no data")

    with pytest.raises(DataError, match=r"^process 1: no data$"):
        cluster.together(fail)
    said.append(cluster.together(lambda: f"on {number}"))
    for call in range(1000):
        time.sleep(0.01 * (1 + number))
        if number == 1 and call > 5:
            cluster.give_notice()
        if cluster.reached_preemption(call):
            said.append(call)
            break
    (folder / f"said{number}.json").write_text(json.dumps(said))


def several(place, name, count, devices, *overrides):
    """Trains in several processes."""
    argv = ["train", str(place / name), *overrides]
    with processes.together(
        count, lambda _: argv, place / "cache", devices=devices, program=PROGRAM
    ) as started:
        for code, _, err in processes.finish(started):
            assert code == 0, err


def assert_same_numbers(folder, expected):
    """Each device computes what it would have computed, and sums come in the same order."""
    ours, theirs = np.load(folder / "arrays.npz"), np.load(expected / "arrays.npz")
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=0, atol=1e-6, err_msg=key)
    (numbers, unreadable), (expected_numbers, expected_unreadable) = (
        json.loads((path / "numbers.json").read_text()) for path in (folder, expected)
    )
    assert numbers == pytest.approx(expected_numbers, abs=1e-5)
    assert unreadable == expected_unreadable


def overrides_of(place, loading):
    """A tiny run from memory, or from a folder."""
    if loading == "memory":
        return [*runs.tiny(place / "data.npz"), *TINY]
    return [*runs.tiny(place / "photos"), *TINY, *STREAM]


@pytest.mark.parametrize(
    ("loading", "count"),
    [
        pytest.param("memory", 2, marks=pytest.mark.long),
        ("stream", 2),
        pytest.param("memory", 4, marks=pytest.mark.long),
        pytest.param("stream", 4, marks=pytest.mark.long),
    ],
)
def test_several_processes_take_the_steps_of_one(place, loading, count):
    overrides = overrides_of(place, loading)
    one, name = place / f"{loading}1", f"{loading}{count}"
    if not one.exists():
        train(one, overrides, make_mesh(jax.devices()[:4]))
    several(place, name, count, 4 // count, *overrides)
    assert_same_numbers(place / name, one)
    if loading == "stream":
        for folder in (one, place / name):
            lines = (folder / "bad_records.jsonl").read_text().splitlines()
            names = [json.loads(line)["name"] for line in lines]
            assert len(names) == len(set(names)) > 1
            assert {name.removeprefix(f"{place}/photos/") for name in names} <= set(BAD)
        assert not list((place / name).glob("bad_records.*.jsonl"))


def test_they_agree_and_stop_together(tmp_path):
    arguments = ["stop", str(tmp_path)]
    with processes.together(2, lambda _: arguments, tmp_path / "cache", program=PROGRAM) as started:
        for code, _, err in processes.finish(started):
            assert code == 0, err
    first, second = (json.loads((tmp_path / f"said{i}.json").read_text()) for i in range(2))
    assert first[0] == second[0] == [{"number": 0, "text": ""}, {"number": 1, "text": "x" * 5000}]
    assert (first[1], second[1]) == ("on 0", "on 1")
    assert first[2] == second[2] > 6


# -- what they could not read ----------------------------------------------------------------------


def test_processes_share_one_list_of_unreadable_images(tmp_path):
    path, limits = tmp_path / "bad_records.jsonl", {"train": 3, "test": 3}
    lists = [BadRecords(path, limits, Shard(i, 2)) for i in range(2)]
    lists[0].add("train", 5, "a.jpg", "broken")
    for index in (5, 6, 7):
        lists[1].add("train", index, f"{index}.jpg", "broken")
    assert len(path.read_text().splitlines()) == 1 and len(lists[1]) == 3

    def share():
        news = [record for found in lists for record in found.take_news()]
        for found in lists:
            found.extend(news)

    share()
    assert [dict(found.counts) for found in lists] == [{"train": 3}] * 2
    listed = [json.loads(line)["index"] for line in path.read_text().splitlines()]
    assert listed == [5, 6, 7]
    share()  # there is no more news
    # Another number of processes goes on with the list.
    lists = [BadRecords(path, limits, Shard(i, 3)) for i in range(3)]
    lists[2].add("train", 7, "7.jpg", "broken")
    lists[2].add("train", 8, "8.jpg", "broken")  # too many, but the others do not know
    news = lists[2].take_news()
    assert [record["index"] for record in news] == [8]
    for found in lists:
        with pytest.raises(DataError, match="4 training images or more cannot be read"):
            found.extend(news)
    assert len(path.read_text().splitlines()) == 4


def test_who_does_not_write_the_list_does_not_mend_it(tmp_path):
    path, limits = tmp_path / "bad_records.jsonl", {"train": 3, "test": 3}
    BadRecords(path, limits).add("train", 5, "a.jpg", "broken")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"split": "tr')  # as another process is writing
    assert len(BadRecords(path, limits, Shard(1, 2))) == 1
    assert path.read_bytes() != whole
    assert len(BadRecords(path, limits, Shard(0, 2))) == 1
    assert path.read_bytes() == whole
