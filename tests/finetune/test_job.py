"""Fine-tuning as a job: every head learns, losses by hand, parts of a batch, several devices."""

import pytest
from finetune_runs import ONE_OF_EACH_KIND, run, write_task

# What must be reached on the examples that were trained on.
LEARNED = {
    "sst2": {"accuracy": 1.0},
    "rte": {"accuracy": 1.0},
    "stsb": {"pearson": 0.99, "spearman": 0.9},
    "swag": {"accuracy": 1.0},
    "squad": {"exact": 1.0, "f1": 1.0},
    "token": {"f1": 1.0, "precision": 1.0, "recall": 1.0},
}


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("task", ONE_OF_EACH_KIND)
def test_every_head_overfits_32_examples(task, tmp_path):
    write_task(tmp_path, task, same=True)
    epochs = 80 if task == "stsb" else 40
    how = {"finetune__epochs": epochs, "finetune__buckets": False, "evaluation__every_steps": 1000}
    (result,) = run(tmp_path, task, tmp_path / "w", **how)
    assert result["degenerate"] is False
    for name, least in LEARNED[task].items():
        assert result["figures"][name] >= least, result
