"""A trained model at work: filling masks, embedding text, scoring text."""

from bertjax.inference.embedding import embed as embed
from bertjax.inference.likelihood import Pair as Pair
from bertjax.inference.likelihood import Score as Score
from bertjax.inference.likelihood import rank_pairs as rank_pairs
from bertjax.inference.likelihood import score as score
from bertjax.inference.masks import fill_mask as fill_mask
from bertjax.inference.masks import fill_questions as fill_questions
