"""Which attention heads write a feature: attribution patching, exact patching, head ablation."""
