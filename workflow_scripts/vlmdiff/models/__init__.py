"""Models under study: loading, preparing inputs, capturing and editing what they compute."""
