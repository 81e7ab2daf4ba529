from tests.data.conftest import config, documents, tfds_dir
from tests.tokenizers.subword_fixtures import corpus, foreign, trained, unigram_model

__all__ = ["config", "corpus", "documents", "foreign", "tfds_dir", "trained", "unigram_model"]
