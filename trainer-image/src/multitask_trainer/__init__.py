"""The stage programs of a MultiTaskModel, one file each in ``stages``, and what they are made of."""
