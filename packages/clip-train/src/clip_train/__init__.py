"""Train CLIP-like models: sample plan, objectives, presets and the loop."""
