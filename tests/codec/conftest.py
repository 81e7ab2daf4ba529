from tests.tokenizers.subword_fixtures import corpus, trained

__all__ = ["corpus", "trained"]
