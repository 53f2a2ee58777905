"""nano: a small trained video model with its clip generator and its questions.

Nothing heavy is imported here: torch and transformers are loaded by ``sttm.nano.model`` only.
"""
