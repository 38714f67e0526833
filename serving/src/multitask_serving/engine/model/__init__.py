"""A bundle's models: decoder and output head, LoRA adapters chosen per row, and loading from files."""
