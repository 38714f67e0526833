"""The base model that training starts from.

``sources`` gets it from the hub, a folder or ``builtin`` (made here); ``loading`` reads what the base stage has left.
"""
