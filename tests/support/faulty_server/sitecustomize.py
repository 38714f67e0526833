"""Python imports this module when it starts; see ``faulty_answers``."""

import faulty_answers  # noqa: F401
