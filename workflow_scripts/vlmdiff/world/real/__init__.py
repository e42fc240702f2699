"""A real language model that is taught to see the built-in world: English sentences, frame, LoRA tuning."""
