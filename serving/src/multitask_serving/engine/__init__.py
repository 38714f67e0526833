"""The one place that runs the model, for evaluation and for serving: what was measured is what is served.

Layers, lowest first: ``errors`` → ``template`` → ``prompt`` (text to ids and back) · ``lora`` → ``model`` (weights) ·
``trie`` → ``score`` (classification) · ``stream`` → ``generate`` → ``engine`` (requests in, answers out).
"""
