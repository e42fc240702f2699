"""Stage-wise model diffing of vision-language models."""
