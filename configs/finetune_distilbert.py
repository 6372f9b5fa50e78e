"""Fine-tuning of DistilBERT: 3 epochs at 5e-5 without warm-up.

Paper:    Sanh et al. 2019 names no rates; these are the defaults of the library it came with, but
          for the batch of 32.
Command:  bertjax finetune --config=configs/finetune_distilbert.py:sst2 --workdir=W \
              --config.init_from=hf:DIR --config.data.files=glue/SST-2
Expected: dev, median of 5 seeds (Sanh et al. 2019, table 1): CoLA 51.3, MNLI 82.2, MRPC 87.5,
          QNLI 89.2, QQP 88.5, RTE 59.9, SST-2 91.3, STS-B 86.9, WNLI 56.3. Not yet run.
"""

from bertjax.finetune import recipes


def get_config(arg="sst2"):
    return recipes.distilbert(arg)
