"""Generation: batched decoding with a key-value cache, sampling, and text from tokens."""
