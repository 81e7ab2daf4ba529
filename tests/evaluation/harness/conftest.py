from tests.tokenizers.subword_fixtures import corpus, foreign, trained

__all__ = ["corpus", "foreign", "trained"]
