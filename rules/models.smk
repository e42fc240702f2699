# Checkpoints of the models under study, fetched from the Hugging Face hub.
