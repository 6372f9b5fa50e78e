"""DistilBERT: six blocks that learn from the twelve of BERT-Base.

Paper:    Sanh et al. 2019: start from every second block of the teacher, soft targets, masked LM
          and cosine of the last hidden states, dynamic masks, no next-sentence prediction, batches
          of up to 4,000 sequences.
Code:     What the paper leaves out is from its code (transformers, research_projects/distillation).
          Loss weights 5, 2, 1 and temperature 2: README.md, the command on one GPU (the command on
          four GPUs has .33 each, the defaults of train.py are .5 and .0). AdamW 5e-4, betas .9/.98,
          no decay, clip 5, 5% warm-up, 3 passes: train.py, distiller.py. Blocks 0, 2, 4, 7, 9, 11:
          scripts/extract_distilbert.py. Token i is masked by count ** -0.7. --freeze_pos_embs of
          that command freezes nothing in DistilBERT (train.py), so the positions train.
          `published` keeps three choices of that code: masks are drawn over a whole batch at once,
          the teacher's token types are dropped, and only the bias and the word table of the
          teacher's head are copied.
Data:     the teacher's text, tokenized by the teacher's tokenizer (the default).
Command:  bertjax pretrain --config=configs/distilbert_base.py --workdir=W \
              --config.teacher.init_from=hf:DIR --config.data.files='wiki/*.jsonl.gz,books/*.txt'
Mesh:     see benchmarks/RESULTS.md, "Distillation"; phases.phase1.micro_batch_size is the rows that
          all devices hold together.
Expected: 66,985,530 parameters (tested), 97% of BERT-Base's score on GLUE (the paper). Not yet run.
"""

from bertjax import config as config_lib


def get_config(arg=""):
    published = config_lib.parse_arg(arg, published=False).published
    config = config_lib.default()
    config.teacher.layers = (0, 2, 4, 7, 9, 11)
    config.teacher.dtype = "bfloat16"
    config.teacher.token_types = "drop" if published else "fold"
    config.teacher.copy_head = not published
    config.objective.distill = 5.0
    config.objective.mlm = 2.0
    config.objective.cosine = 1.0
    config.objective.nsp = 0.0

    config.model.num_hidden_layers = 6
    config.model.type_vocab_size = 0
    config.model.head = "masked_lm"
    config.model.dtype = "bfloat16"
    config.examples.builder = "doc_sentences"
    config.masking.smoothing = 0.7
    config.masking.budget = "batch" if published else "example"

    config.phases.phase1 = config_lib.phase(
        steps=6000,
        sequence_length=512,
        batch_size=4096,
        micro_batch_size=512,
        max_predictions_per_seq=128 if published else 77,  # published: cuts .04% of the choices
    )
    config.optimizer.name = "adamw"
    config.optimizer.schedule = "warmup_then_decay"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 300
    config.optimizer.b2 = 0.98
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 5.0
    config.evaluation.batch_size = 256
    config.evaluation.num_examples = 4096
    return config
