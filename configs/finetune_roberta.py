"""RoBERTa's fine-tuning: 6% warm-up, 10 epochs, the best evaluation counts.

Paper:    Liu et al. 2019, section 5.1 and table 10; rates by task as in fairseq,
          examples/roberta/README.glue.md. RTE, MRPC and STS-B start from a model that was
          fine-tuned on MNLI: give its workdir as init_from.
Command:  bertjax finetune --config=configs/finetune_roberta.py:rte --workdir=W \
              --config.init_from=hf:DIR --config.data.files=glue/RTE
Expected: RoBERTa-large, dev, median of 5 seeds (Liu et al. 2019, table 8): MNLI 90.2, QNLI 94.7,
          QQP 92.2, RTE 86.6, SST-2 96.4, MRPC 90.9, CoLA 68.0, STS-B 92.4. Not yet run.
"""

from bertjax.finetune import recipes


def get_config(arg="mrpc"):
    return recipes.roberta(arg)
