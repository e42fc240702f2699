"""The built-in world: scenes, language, data sets, and the training of its models."""
