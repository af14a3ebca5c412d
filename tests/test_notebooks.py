"""The notebook's cells run from top to bottom, on a data set that is small enough for a test."""

import json

import jax
import pytest

from tests import runs

SMALL = """
config.data.name, config.data.path, config.data.num_classes = "npz", {data!r}, 0
config.model.width, config.batch_size, config.epochs = 4, 8, 1
"""


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of what tensorboardX imports
def test_quickstart_notebook(tmp_path, monkeypatch, capsys):
    if jax.device_count() != 8:
        pytest.fail("the tests expect the eight devices of conftest.py")
    monkeypatch.chdir(runs.ROOT)
    data = runs.write_npz(tmp_path / "data.npz")
    notebook = json.loads((runs.ROOT / "colab/quickstart.ipynb").read_text())
    namespace = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert not cell["outputs"] and cell["execution_count"] is None  # kept out of the history
        source = "".join(line for line in cell["source"] if not line.startswith("%"))
        source = source.replace("runs/notebook", str(tmp_path / "run"))
        if "load_config" in source:
            source += SMALL.format(data=str(data))
        exec(source, namespace)
    assert "student_mix" in capsys.readouterr().out
    assert (tmp_path / "run/samples/epoch_001.png").exists()
