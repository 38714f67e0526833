"""``mtm export``: the adapters of an exported result as files that other engines take as they are."""
