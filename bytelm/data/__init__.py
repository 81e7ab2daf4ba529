"""From text to batches: sources, stored corpora, tasks, order, loading."""
