"""The registered model's own code: it travels with the model and imports nothing of
Thaw.
"""
