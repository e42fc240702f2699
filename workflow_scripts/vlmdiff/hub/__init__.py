"""The Hugging Face hub: pinned repositories, one clear error when they cannot be had."""
