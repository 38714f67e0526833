"""From text to token ids: templates, the chat format of instruct models, and the encoding of prompts and answers."""
