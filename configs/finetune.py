"""BERT's fine-tuning: GLUE, SQuAD, SWAG, RACE, IMDb, or data of your own.

Paper:    Devlin et al. 2018, sections 4 and A.3: Adam, 10% warm-up, linear decay, 2 to 4 epochs of
          batches of 16 or 32 at 5e-5, 3e-5 or 2e-5. Bias correction is on (Mosbach et al. 2021);
          `published` turns it off, as in the paper. `grid` is the paper's search.
Command:  bertjax finetune --config=configs/finetune.py:mrpc --workdir=W \
              --config.init_from=hf:DIR --config.data.files=glue/MRPC
          Tasks: cola sst2 mrpc stsb qqp mnli qnli rte wnli squad squad2 swag race imdb; for data of
          your own: single pair regression multiple_choice span token. Options after a comma: grid,
          published.
Expected: BERT-Base, dev (Devlin et al. 2018, tables 1 and 2; google-research/bert): MNLI 84,
          QQP F1 71 on test, QNLI 90 to 91, SST-2 92 to 93, CoLA 52 to 60, STS-B 85 to 89,
          MRPC F1 87 to 89, RTE 64 to 67, SQuAD 1.1 F1 88.5. From BERT-Base: not yet run.
"""

from bertjax import config as config_lib
from bertjax.finetune import recipes


def get_config(arg="mrpc"):
    task, _, rest = arg.partition(",")
    chosen = config_lib.parse_arg(rest, grid=False, published=False)
    return recipes.bert(task, grid=chosen.grid, published=chosen.published)
