"""DistilBERT's fine-tuning: 3 epochs at 5e-5 without warm-up.

Paper:    Sanh et al. 2019 gives no rates. These are the defaults of the library that it came with,
          except for the batch of 32.
Command:  bertjax finetune --config=configs/finetune_distilbert.py:sst2 --workdir=W \
              --config.init_from=hf:DIR --config.data.files=glue/SST-2
Expected: dev, median of 5 seeds (Sanh et al. 2019, table 1): CoLA 51.3, MNLI 82.2, MRPC 87.5,
          QNLI 89.2, QQP 88.5, RTE 59.9, SST-2 91.3, STS-B 86.9, WNLI 56.3. Not yet run.

Distillation on the task, from a fine-tuned teacher with the same vocabulary (Sanh et al. 2019,
section 4.1): add --config.teacher.init_from=TEACHER (a workdir of bertjax finetune, or hf:DIR) and
the weights of the two losses to any task's command. This is the paper's row on SQuAD, with the
weights and the temperature of transformers' run_squad_w_distillation.py:
          bertjax finetune --config=configs/finetune_distilbert.py:squad --workdir=W \
              --config.init_from=hf:DIR --config.data.files=squad --config.teacher.init_from=TEACHER \
              --config.objective.task=0.5 --config.objective.distill=0.5 --config.teacher.temperature=2
Expected: SQuAD 1.1, dev (Sanh et al. 2019, table 2): exact 79.1, F1 86.9; without a teacher 77.7 and
          85.8; its teacher, BERT-Base, 81.2 and 88.5. Not yet run.
"""

from bertjax.finetune import recipes


def get_config(arg="sst2"):
    return recipes.distilbert(arg)
