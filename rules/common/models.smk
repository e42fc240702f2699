"""Which checkpoints come from the hub."""


def hub_sources():
    """Return the sources of all checkpoints and vision towers that are fetched, by the name of their folder."""
    found = {name: model.path for name, model in CFG.models.items()}
    found |= {
        f"{name}_vision_tower": model.vision_tower for name, model in CFG.models.items() if model.vision_tower
    }
    return {name: source for name, source in found.items() if is_hub(source)}
