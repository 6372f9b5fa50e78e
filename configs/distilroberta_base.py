"""DistilRoBERTa: six blocks that learn from the twelve of RoBERTa-Base.

Paper:    Sanh et al. 2019, and transformers, research_projects/distillation/README.md: as
          DistilBERT, from RoBERTa-Base and on OpenWebText alone, a quarter of the teacher's text.
          Weights and schedule are those of configs/distilbert_base.py, which gives their sources;
          none were published for RoBERTa. --freeze_pos_embs of that README would freeze the
          positions here (train.py); they train here.
          `published`: masks are drawn over a whole batch at once, and only the bias and the word
          table of the teacher's head are copied.
Data:     any corpus, tokenized by the teacher's tokenizer (the default).
Command:  bertjax pretrain --config=configs/distilroberta_base.py --workdir=W \
              --config.teacher.init_from=hf:DIR --config.data.files='corpus/*.jsonl.gz'
Expected: 82,170,201 parameters (tested), 95% of RoBERTa-Base's score on GLUE (that README). Not yet
          run.
"""

from bertjax import config as config_lib


def get_config(arg=""):
    published = config_lib.parse_arg(arg, published=False).published
    config = config_lib.default()
    config.teacher.layers = (0, 2, 4, 7, 9, 11)
    config.teacher.dtype = "bfloat16"
    config.teacher.copy_head = not published
    config.objective.distill = 5.0
    config.objective.mlm = 2.0
    config.objective.cosine = 1.0
    config.objective.nsp = 0.0
    config.tokenizer.kind = "byte_bpe"
    config.tokenizer.vocab_size = 50265
    config.examples.builder = "full_sentences"
    config.masking.smoothing = 0.7
    config.masking.budget = "batch" if published else "example"

    config.model.vocab_size = 50265
    config.model.num_hidden_layers = 6
    config.model.max_position_embeddings = 514
    config.model.position_offset = 2
    config.model.type_vocab_size = 1
    config.model.layer_norm_eps = 1e-5
    config.model.head = "masked_lm"
    config.model.dtype = "bfloat16"

    config.phases.phase1 = config_lib.phase(
        steps=6000,
        sequence_length=512,
        batch_size=4096,
        micro_batch_size=512,
        max_predictions_per_seq=128 if published else 77,
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
